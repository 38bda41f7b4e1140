// Memory for what lives within one call. It is kept when it is given back, because fresh pages from the system cost more than
// filling them; but never more than a quarter of the machine's memory.

#pragma once

#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <map>
#include <mutex>
#include <new>
#include <utility>

namespace trainer {

class Kept {  // memory aligned to 64 bytes, by size
 public:
  static Kept& Get() {
    static Kept* kept = new Kept;
    return *kept;
  }

  std::pair<void*, size_t> Take(size_t bytes) {
    bytes = (bytes / kGrain + 1) * kGrain;  // never none: an empty matrix has an address, too
    {
      std::lock_guard<std::mutex> lock(mutex_);
      const auto found = kept_.lower_bound(bytes);
      if (found != kept_.end() && found->first <= 2 * bytes) {
        const std::pair<void*, size_t> taken{found->second, found->first};
        held_ -= found->first;
        kept_.erase(found);
        return taken;
      }
    }
    void* fresh = std::aligned_alloc(64, bytes);
    if (fresh == nullptr) throw std::bad_alloc();
    return {fresh, bytes};
  }

  void GiveBack(void* memory, size_t bytes) noexcept {
    std::lock_guard<std::mutex> lock(mutex_);
    try {
      kept_.emplace(bytes, memory);
    } catch (const std::bad_alloc&) {
      std::free(memory);
      return;
    }
    held_ += bytes;
    while (held_ > most_) {  // the largest goes first: it is the least likely to be asked for again
      const auto largest = std::prev(kept_.end());
      held_ -= largest->first;
      std::free(largest->second);
      kept_.erase(largest);
    }
  }

  size_t held() {
    std::lock_guard<std::mutex> lock(mutex_);
    return held_;
  }

 private:
  static constexpr size_t kGrain = 4096;

  const size_t most_ = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) / 4 * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::mutex mutex_;
  std::multimap<size_t, void*> kept_;
  size_t held_ = 0;
};

// `count` numbers, not set to anything.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(long count) {
    if (count < 0 || static_cast<size_t>(count) > std::numeric_limits<size_t>::max() / 2 / sizeof(T)) throw std::bad_alloc();
    const auto taken = Kept::Get().Take(static_cast<size_t>(count) * sizeof(T));
    data_ = static_cast<T*>(taken.first);
    bytes_ = taken.second;
#if defined(__SANITIZE_ADDRESS__)  // what is kept is larger than what was asked for: a read behind the end must not go unseen
    ASAN_UNPOISON_MEMORY_REGION(data_, bytes_);
    ASAN_POISON_MEMORY_REGION(data_ + count, bytes_ - static_cast<size_t>(count) * sizeof(T));
#endif
  }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer() {
    if (data_ == nullptr) return;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(data_, bytes_);
#endif
    Kept::Get().GiveBack(data_, bytes_);
  }

  T* data() const { return data_; }
  T& operator[](long i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace trainer
