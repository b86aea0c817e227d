// A torch file of any bytes: its directory's entries lie in it apart from each other, and its
// tensors inside of them.

#include <algorithm>

#include "core/checkpoint/torch_file.h"
#include "core/checkpoint/zip_directory.h"
#include "tests/fuzz/torch_tensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view file(reinterpret_cast<const char*>(data), size);
  const auto read = [&](uint64_t offset, absl::Span<char> out) {
    FUZZ_CHECK(offset <= size && out.size() <= size - offset);
    std::copy_n(file.data() + offset, out.size(), out.data());
    return absl::OkStatus();
  };
  const auto zip = orthomerge::ReadZipDirectory(read, size);
  if (zip.ok()) {
    auto entries = zip->entries;
    for (size_t i = 1; i < entries.size(); ++i) {
      FUZZ_CHECK(entries[i - 1].name < entries[i].name);
    }
    std::sort(entries.begin(), entries.end(),
              [](const auto& a, const auto& b) { return a.begin < b.begin; });
    uint64_t end = 0;
    for (const auto& entry : entries) {
      FUZZ_CHECK(entry.begin >= end + 30 && entry.end >= entry.begin && entry.end <= size);
      end = entry.end;
    }
  }
  const auto tensors = orthomerge::ReadTorchFile(read, size);
  FUZZ_CHECK(zip.ok() || !tensors.ok());
  if (tensors.ok()) orthomerge::CheckTorchTensors(*tensors, file, size);
  return 0;
}
