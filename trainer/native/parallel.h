// Work shared by the cores: a pool of threads that lives as long as the process.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace trainer {

// Cores that a container's quota allows, rounded up; 0 where there is no quota. Control groups, version 2 and version 1.
inline long QuotaOfCores() {
  double quota = -1.0, period = 0.0;
  std::string first;
  std::ifstream both("/sys/fs/cgroup/cpu.max");
  if (both >> first >> period) {
    if (first != "max") quota = std::strtod(first.c_str(), nullptr);
  } else {
    std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (!(quota_file >> quota) || !(period_file >> period)) return 0;
  }
  return quota > 0.0 && period > 0.0 ? std::max(1L, static_cast<long>((quota + period - 1.0) / period)) : 0;
}

class Pool {
 public:
  // As many threads as cores, the caller's included: those that this process may run on, that its quota allows, and that
  // TensorFlow was told to use within one operation. BERT_TRAINER_THREADS overrides all of them.
  static Pool& Get() {
    static Pool* pool = new Pool(Threads());  // never ends: nor do its threads
    return *pool;
  }

  // Tells how many threads TensorFlow uses within one operation; counts only before the first `Get`.
  static void SetTensorFlowThreads(long threads) { TensorFlowThreads().store(threads); }

  long threads() const { return static_cast<long>(workers_.size()) + 1; }

  // Calls work(0), ..., work(count - 1), each once, on all threads, and returns when all are done. What one of them throws is
  // thrown here, once the others are done. A call from inside `work` runs on its own thread.
  // What a call computes must not depend on the thread or on the order: results are then the same in each run.
  void Run(long count, const std::function<void(long)>& work) {
    if (count <= 1 || workers_.empty() || IsInside()) {
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
    {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, [&] { return job->is_done(); });
    }
    if (job->failure) std::rethrow_exception(job->failure);
  }

 private:
  // Done when its parts are, whoever did them: a thread that another program keeps from running is not waited for.
  struct Job {
    Job(const std::function<void(long)>* work, long count) : work(work), count(count) {}
    bool is_done() const { return done.load() == count; }

    const std::function<void(long)>* const work;  // not read once all parts are taken
    const long count;
    std::atomic<long> next{0}, done{0};
    std::exception_ptr failure;  // of the first part that threw; guarded by Pool's mutex_
  };

  static constexpr int kSpins = 4000;  // some 50 microseconds: the next job of a layer comes sooner than a thread wakes up

  explicit Pool(long threads) {
    for (long i = 1; i < threads; ++i) {
      try {
        workers_.emplace_back([this] { Work(); });
      } catch (const std::system_error&) {
        return;  // the system gives no more threads: those that are there do the work
      }
    }
  }

  static std::atomic<long>& TensorFlowThreads() {
    static std::atomic<long> threads{0};  // 0: not told
    return threads;
  }

  static long Threads() {
    if (const char* text = std::getenv("BERT_TRAINER_THREADS")) {
      const long asked = std::strtol(text, nullptr, 10);
      if (asked > 0) return asked;
    }
    long threads = std::max(1L, static_cast<long>(std::thread::hardware_concurrency()));
    for (const long limit : {QuotaOfCores(), TensorFlowThreads().load()}) {
      if (limit > 0) threads = std::min(threads, limit);
    }
    return threads;
  }

  static bool& IsInside() {
    static thread_local bool is_inside = false;
    return is_inside;
  }

  static void Pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  void TakeParts(Job& job) {
    IsInside() = true;
    for (long i = job.next.fetch_add(1); i < job.count; i = job.next.fetch_add(1)) {
      try {
        (*job.work)(i);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!job.failure) job.failure = std::current_exception();
      }
      if (job.done.fetch_add(1) + 1 == job.count) {
        std::lock_guard<std::mutex> lock(mutex_);  // so that the one who waits is either before its look or asleep
        done_.notify_one();
      }
    }
    IsInside() = false;
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
