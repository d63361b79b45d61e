// The fuzz target, and the functions that libFuzzer calls and gives: their names and signatures are its own.
#pragma once

#include <cstddef>
#include <cstdint>

// Ends the process where something is wrong with how one input is read; true where the input is a frame.
bool check_frame(const uint8_t* data, size_t size);

extern "C" {

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Changes an input in place, to at most max_size bytes; returns its new size.
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed);

// libFuzzer's own changes, which know nothing of frames.
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
}
