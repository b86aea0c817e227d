#include "tests/storage/test_support.h"

#include <cstdlib>
#include <filesystem>
#include <random>

namespace orthomerge {

TemporaryFolder::TemporaryFolder(std::string parent) {
  const char* usual = std::getenv("TMPDIR");
  if (parent.empty()) parent = usual != nullptr ? usual : "/tmp";
  path_ = parent + "/orthomerge-test.XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) std::abort();
  path_ = std::filesystem::canonical(path_).string();
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

std::string SomeBytes(size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(generator());
  return bytes;
}

}  // namespace orthomerge
