// Work shared by the cores: a pool of threads that lives as long as the process.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
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
    if (count <= 1 || workers_.empty()) {
      for (long i = 0; i < count; ++i) work(i);
      return;
    }
    std::lock_guard<std::mutex> one_at_a_time(entrance_);
    const auto job = std::make_shared<Job>(&work, count);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      number_.fetch_add(1);
    }
    begun_.notify_all();
    TakeParts(*job);
    for (int i = 0; i < kSpins && !job->is_done(); ++i) Pause();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return job->is_done(); });
  }

 private:
  // Done when its parts are, whoever did them: a thread that another program keeps from running is not waited for.
  struct Job {
    Job(const std::function<void(long)>* work, long count) : work(work), count(count) {}
    bool is_done() const { return done.load() == count; }

    const std::function<void(long)>* const work;  // not read once all parts are taken
    const long count;
    std::atomic<long> next{0}, done{0};
  };

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

  void TakeParts(Job& job) {
    for (long i = job.next.fetch_add(1); i < job.count; i = job.next.fetch_add(1)) {
      (*job.work)(i);
      if (job.done.fetch_add(1) + 1 == job.count) {
        std::lock_guard<std::mutex> lock(mutex_);  // so that the one who waits is either before its look or asleep
        done_.notify_one();
      }
    }
  }

  [[noreturn]] void Work() {
    for (long seen = 0;;) {
      for (int i = 0; i < kSpins && number_.load() == seen; ++i) Pause();
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        begun_.wait(lock, [&] { return number_.load() != seen; });
        seen = number_.load();
        job = job_;
      }
      TakeParts(*job);
    }
  }

  std::mutex entrance_, mutex_;
  std::condition_variable begun_, done_;
  std::atomic<long> number_{0};  // of the jobs so far
  std::shared_ptr<Job> job_;
  std::vector<std::thread> workers_;
};

inline void Parallel(long count, const std::function<void(long)>& work) { Pool::Get().Run(count, work); }

// Cuts [0, size) into parts of at least `least` for the threads; calls work(begin, end) for each.
inline void ParallelRanges(long size, long least, const std::function<void(long, long)>& work) {
  const long parts = std::max(1L, std::min(4 * Pool::Get().threads(), size / std::max(1L, least)));
  Parallel(parts, [&](long i) { work(size * i / parts, size * (i + 1) / parts); });
}

}  // namespace trainer
