// Runs a fuzz target without libFuzzer: NAME_replay [--seconds N] [--seed N] FILE_OR_FOLDER...
// Every input as it is, then mutations of them until the time is over. An input that ends the
// process is left in the file `crash-input`.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

// Sanitizers end the process by SIGABRT too, so that the handler below sees it.
extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "halt_on_error=1:abort_on_error=1"; }

namespace {

constexpr size_t kLongest = 64 * 1024;

const char* current_data = nullptr;
size_t current_size = 0;

extern "C" void SaveInput(int signal) {
  const int file = open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  size_t done = 0;
  while (file >= 0 && done < current_size) {
    const ssize_t written = write(file, current_data + done, current_size - done);
    if (written <= 0) break;
    done += static_cast<size_t>(written);
  }
  constexpr char kMessage[] = "the input is in ./crash-input\n";
  if (write(STDERR_FILENO, kMessage, sizeof kMessage - 1) < 0) _exit(1);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void RunOne(const std::string& input) {
  current_data = input.data();
  current_size = input.size();
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

using Random = std::mt19937_64;

size_t Below(Random& random, size_t limit) { return limit == 0 ? 0 : random() % limit; }

// One to eight small changes; `inputs` is not empty.
std::string Mutate(const std::vector<std::string>& inputs, Random& random) {
  static const std::vector<std::string> kPieces = {"{",
                                                   "}",
                                                   "[",
                                                   "]",
                                                   "\"",
                                                   ",",
                                                   ":",
                                                   "\\",
                                                   "\\u0000",
                                                   "\\ud800",
                                                   "null",
                                                   "true",
                                                   "0",
                                                   "-1",
                                                   "1.0",
                                                   "1e9",
                                                   "18446744073709551615",
                                                   "18446744073709551616",
                                                   "9223372036854775808",
                                                   "4294967296",
                                                   "NaN",
                                                   "\xff",
                                                   "\xc3",
                                                   std::string(1, '\0'),
                                                   " ",
                                                   "\n",
                                                   "//",
                                                   "../"};
  std::string text = inputs[Below(random, inputs.size())];
  for (size_t changes = 1 + Below(random, 8); changes > 0; --changes) {
    const size_t at = Below(random, text.size() + 1);
    const size_t length = Below(random, std::min<size_t>(text.size() - at, 32) + 1);
    switch (Below(random, 7)) {
      case 0:
        text.insert(at, 1, static_cast<char>(random()));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, kPieces[Below(random, kPieces.size())]);
        break;
      case 3:
        text.replace(at, length, kPieces[Below(random, kPieces.size())]);
        break;
      case 4:
        text.insert(Below(random, text.size() + 1), text.substr(at, length));
        break;
      case 5:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ 1 << Below(random, 8));
        break;
      default: {
        const std::string& other = inputs[Below(random, inputs.size())];
        const size_t from = Below(random, other.size() + 1);
        text.replace(at, length, other.substr(from, Below(random, 64)));
      }
    }
  }
  if (text.size() > kLongest) text.resize(kLongest);
  return text;
}

std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 0;
  uint64_t seed = 1;
  std::vector<std::filesystem::path> paths;
  for (int i = 1; i < argc; ++i) {
    const bool has_value = i + 1 < argc;
    if (std::strcmp(argv[i], "--seconds") == 0 && has_value) {
      seconds = std::strtod(argv[++i], nullptr);
    } else if (std::strcmp(argv[i], "--seed") == 0 && has_value) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::filesystem::is_directory(argv[i])) {
      for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
        if (entry.is_regular_file()) paths.push_back(entry.path());
      }
    } else {
      paths.emplace_back(argv[i]);
    }
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> inputs;
  for (const std::filesystem::path& path : paths) inputs.push_back(ReadAll(path));
  if (inputs.empty()) {
    std::fprintf(stderr, "no inputs; usage: %s [--seconds N] [--seed N] FILE_OR_FOLDER...\n",
                 argv[0]);
    return 2;
  }
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    std::signal(signal, SaveInput);
  }
  for (const std::string& input : inputs) RunOne(input);

  Random random(seed);
  uint64_t mutations = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (; std::chrono::steady_clock::now() < end; ++mutations) RunOne(Mutate(inputs, random));
  std::printf("%zu inputs and %llu mutations (seed %llu)\n", inputs.size(),
              static_cast<unsigned long long>(mutations), static_cast<unsigned long long>(seed));
  return 0;
}
