// Work shared by the cores: a pool of threads that lives as long as the process.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace trainer {

class Pool {
 public:
  // One thread for each core this process may run on; the caller's is one of them.
  static Pool& Get() {
    static Pool* pool = new Pool(std::max(1u, std::thread::hardware_concurrency()));  // never ends: nor do its threads
    return *pool;
  }

  long threads() const { return static_cast<long>(workers_.size()) + 1; }

  // Calls work(0), ..., work(count - 1), each once, on all threads, and returns when all are done.
  // What a call computes must not depend on the thread or on the order: results are then the same in each run.
  void Run(long count, const std::function<void(long)>& work) {
    if (count <= 0) return;
    if (count == 1 || workers_.empty()) {
      for (long i = 0; i < count; ++i) work(i);
      return;
    }
    std::lock_guard<std::mutex> one_at_a_time(entrance_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      count_ = count;
      next_.store(0);
      busy_ = workers_.size();
      job_.fetch_add(1);
    }
    begun_.notify_all();
    TakeParts();
    for (int i = 0; i < kSpins && busy_.load() > 0; ++i) Pause();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_.load() == 0; });
  }

 private:
  static constexpr int kSpins = 4000;  // some 50 microseconds: the next job of a layer comes sooner than a thread wakes up

  explicit Pool(unsigned threads) {
    for (unsigned i = 1; i < threads; ++i) workers_.emplace_back([this] { Work(); });
  }

  static void Pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  void TakeParts() {
    for (long i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) (*work_)(i);
  }

  [[noreturn]] void Work() {
    for (long seen = 0;;) {
      for (int i = 0; i < kSpins && job_.load() == seen; ++i) Pause();
      {
        std::unique_lock<std::mutex> lock(mutex_);
        begun_.wait(lock, [&] { return job_.load() != seen; });
        seen = job_.load();
      }
      TakeParts();
      std::lock_guard<std::mutex> lock(mutex_);
      if (busy_.fetch_sub(1) == 1) done_.notify_one();
    }
  }

  std::mutex entrance_, mutex_;
  std::condition_variable begun_, done_;
  std::atomic<long> next_{0}, job_{0};
  std::atomic<size_t> busy_{0};
  const std::function<void(long)>* work_ = nullptr;
  long count_ = 0;
  std::vector<std::thread> workers_;
};

inline void Parallel(long count, const std::function<void(long)>& work) { Pool::Get().Run(count, work); }

// Cuts [0, size) into parts of at least `least` for the threads; calls work(begin, end) for each.
inline void ParallelRanges(long size, long least, const std::function<void(long, long)>& work) {
  const long parts = std::max(1L, std::min(4 * Pool::Get().threads(), size / std::max(1L, least)));
  Parallel(parts, [&](long i) { work(size * i / parts, size * (i + 1) / parts); });
}

}  // namespace trainer
