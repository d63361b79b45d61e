#include "csrc/ring/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>

#include "csrc/ring/error.h"

namespace pipecodec::ring {
namespace {

constexpr uint64_t kMagic = 0x676e697263706970;  // "pipcring"
constexpr size_t kPage = 4096;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;  // touching a page that was cut off would end a process

std::string because(const std::string& text) { return text + ": " + std::strerror(errno); }

}  // namespace

Mapping::Mapping(size_t capacity) : capacity_((capacity + kPage - 1) / kPage * kPage) {
  file_ = memfd_create("pipecodec", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file_ < 0) throw Error(Error::Kind::Missing, because("no shared memory"));
  try {
    const size_t size = kPage + capacity_;
    if (ftruncate(file_, static_cast<off_t>(size)) != 0 || fcntl(file_, F_ADD_SEALS, kSeals) != 0) {
      throw Error(Error::Kind::Missing, because("no shared memory of " + std::to_string(size) + " bytes"));
    }
    map(size);
    new (control_) Control();
    if (getrandom(&control_->secret, sizeof control_->secret, 0) != sizeof control_->secret) {
      throw Error(Error::Kind::Missing, because("no random numbers"));
    }
    control_->capacity = capacity_;
    control_->magic = kMagic;
  } catch (...) {
    if (control_ != nullptr) munmap(control_, mapped_);
    close(file_);
    throw;
  }
}

Mapping::Mapping(const char* path, uint64_t secret) {
  file_ = open(path, O_RDWR | O_CLOEXEC);
  if (file_ < 0) throw Error(Error::Kind::Missing, because(path));
  const auto refuse = [&](const char* why) {
    if (control_ != nullptr) munmap(control_, mapped_);
    close(file_);
    throw Error(Error::Kind::Missing, std::string(path) + why);
  };
  struct stat status{};
  if (fstat(file_, &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_size < static_cast<off_t>(2 * kPage)) {
    refuse(" is no ring");
  }
  const int seals = fcntl(file_, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) refuse(" is no ring: its size may change");
  try {
    map(static_cast<size_t>(status.st_size));
  } catch (const Error&) {
    refuse(" cannot be mapped");
  }
  capacity_ = mapped_ - kPage;
  if (control_->magic != kMagic || control_->secret != secret || control_->capacity != capacity_) {
    refuse(" is another process's memory");
  }
}

Mapping::~Mapping() {
  munmap(control_, mapped_);
  close(file_);
}

void Mapping::map(size_t size) {
  void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
  if (memory == MAP_FAILED) throw Error(Error::Kind::Missing, because("shared memory cannot be mapped"));
  owner_ = getpid();
  mapped_ = size;
  control_ = static_cast<Control*>(memory);
  bytes_ = static_cast<uint8_t*>(memory) + kPage;
}

bool Mapping::inherited() const { return getpid() != owner_; }

void Mapping::check_owner() const {
  if (inherited()) throw Error(Error::Kind::Misused, "it belongs to the process that forked this one");
}

size_t Mapping::used(uint64_t written, uint64_t taken) const {
  const uint64_t between = written - taken;
  if (between > capacity_) throw Error(Error::Kind::Broken, "the ring's memory was written to");
  return between;
}

void Mapping::copy_in(uint64_t at, const uint8_t* from, size_t size) const {
  const size_t begin = at % capacity_, first = std::min(size, capacity_ - begin);
  if (first != 0) std::memcpy(bytes_ + begin, from, first);
  if (size != first) std::memcpy(bytes_, from + first, size - first);
}

void Mapping::copy_out(uint64_t at, uint8_t* to, size_t size) const {
  const size_t begin = at % capacity_, first = std::min(size, capacity_ - begin);
  if (first != 0) std::memcpy(to, bytes_ + begin, first);
  if (size != first) std::memcpy(to + first, bytes_, size - first);
}

}  // namespace pipecodec::ring
