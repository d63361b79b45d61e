// The fuzz target, and the functions that libFuzzer calls and gives: their names and signatures are its own.
#pragma once

#include <cstddef>
#include <cstdint>

// Ends the process if one input is read wrongly; returns true if it is a frame.
bool check_frame(const uint8_t* data, size_t size);

extern "C" {

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Changes an input in place, to at most max_size bytes; returns its new size.
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed);

// libFuzzer's own mutations, which know nothing of frames.
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
}
