// The least that a merge of these files can cost here: the same bytes read and written by plain
// large reads and writes, with nothing in between.
//
//   floor --out FILE --write BYTES [--passes N] [--threads N] [--sync-every BYTES] INPUT...
//
// Every pass reads all inputs. The last one also writes FILE, anew, from the bytes just read, and
// syncs it after every --sync-every bytes (0: only at the end). Each thread has one buffer of 4
// MiB. Prints the seconds taken.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr uint64_t kChunk = 4 << 20;

[[noreturn]] void Die(const char* what, const std::string& name) {
  std::fprintf(stderr, "floor: %s %s: %s\n", what, name.c_str(), std::strerror(errno));
  std::exit(1);
}

struct Input {
  std::string name;
  int fd;
  uint64_t size;
};

// One pass; `out` < 0: no writing.
class Pass {
 public:
  Pass(const std::vector<Input>& inputs, int out, uint64_t write_bytes, uint64_t sync_every)
      : inputs_(inputs),
        out_(out),
        write_bytes_(out < 0 ? 0 : write_bytes),
        sync_every_(sync_every) {
    for (const Input& input : inputs) longest_ = std::max(longest_, input.size);
    longest_ = std::max(longest_, write_bytes_);
  }

  void Run(int threads) {
    std::vector<std::thread> workers;
    for (int i = 0; i < threads; ++i) workers.emplace_back([this] { Work(); });
    for (std::thread& worker : workers) worker.join();
  }

 private:
  void Work() {
    std::vector<char> buffer(kChunk, 1);
    for (;;) {
      const uint64_t begin = next_.fetch_add(kChunk);
      if (begin >= longest_) return;
      for (const Input& input : inputs_) Read(input, begin, buffer.data());
      if (begin < write_bytes_) Write(begin, std::min(kChunk, write_bytes_ - begin), buffer.data());
    }
  }

  void Read(const Input& input, uint64_t begin, char* buffer) {
    const uint64_t end = std::min(begin + kChunk, input.size);
    for (uint64_t at = begin; at < end;) {
      const ssize_t got = pread(input.fd, buffer + (at - begin), end - at, static_cast<off_t>(at));
      if (got <= 0) Die("cannot read", input.name);
      at += static_cast<uint64_t>(got);
    }
  }

  void Write(uint64_t begin, uint64_t size, const char* buffer) {
    for (uint64_t done = 0; done < size;) {
      const ssize_t put =
          pwrite(out_, buffer + done, size - done, static_cast<off_t>(begin + done));
      if (put <= 0) Die("cannot write", "the output");
      done += static_cast<uint64_t>(put);
    }
    if (sync_every_ == 0) return;
    const uint64_t before = written_.fetch_add(size);
    if (before / sync_every_ != (before + size) / sync_every_ && fdatasync(out_) != 0) {
      Die("cannot sync", "the output");
    }
  }

  const std::vector<Input>& inputs_;
  const int out_;
  const uint64_t write_bytes_;
  const uint64_t sync_every_;
  uint64_t longest_ = 0;
  std::atomic<uint64_t> next_{0};
  std::atomic<uint64_t> written_{0};
};

}  // namespace

int main(int argc, char** argv) {
  const auto start = std::chrono::steady_clock::now();
  std::string out_name;
  uint64_t write_bytes = 0;
  uint64_t sync_every = 0;
  int passes = 1;
  int threads = 1;
  std::vector<Input> inputs;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (word == "--out") {
      out_name = value;
    } else if (word == "--write") {
      write_bytes = std::strtoull(value, nullptr, 10);
    } else if (word == "--passes") {
      passes = std::atoi(value);
    } else if (word == "--threads") {
      threads = std::atoi(value);
    } else if (word == "--sync-every") {
      sync_every = std::strtoull(value, nullptr, 10);
    } else {
      const int fd = open(word.c_str(), O_RDONLY | O_CLOEXEC);
      struct stat info;
      if (fd < 0 || fstat(fd, &info) != 0) Die("cannot open", word);
      inputs.push_back({word, fd, static_cast<uint64_t>(info.st_size)});
      continue;
    }
    ++i;
  }
  if (inputs.empty() || out_name.empty() || passes < 1 || threads < 1) {
    std::fprintf(stderr,
                 "usage: floor --out FILE --write BYTES [--passes N] [--threads N] "
                 "[--sync-every BYTES] INPUT...\n");
    return 2;
  }
  unlink(out_name.c_str());
  const int out = open(out_name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (out < 0) Die("cannot create", out_name);
  for (int pass = 1; pass <= passes; ++pass) {
    Pass(inputs, pass == passes ? out : -1, write_bytes, sync_every).Run(threads);
  }
  if (fdatasync(out) != 0 || close(out) != 0) Die("cannot sync", out_name);
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  std::printf("%.6f\n", taken.count());
  return 0;
}
