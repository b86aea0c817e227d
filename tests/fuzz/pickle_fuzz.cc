// A pickle of any bytes, as the data.pkl of an archive with ten storages of 16 bytes: what is
// accepted are tensors inside of the file.

#include <array>

#include "core/checkpoint/torch_file.h"
#include "tests/fuzz/torch_tensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using orthomerge::ZipEntry;
  constexpr uint64_t kFileSize = 1000;
  std::array<ZipEntry, 10> storages;
  for (size_t i = 0; i < storages.size(); ++i) {
    storages[i].begin = 100 + 20 * i;
    storages[i].end = storages[i].begin + 16;
  }
  const auto find = [&](absl::string_view key) -> const ZipEntry* {
    return key.size() == 1 && key[0] >= '0' && key[0] <= '9' ? &storages[key[0] - '0'] : nullptr;
  };
  const auto tensors =
      orthomerge::ReadStateDict({reinterpret_cast<const char*>(data), size}, find, kFileSize);
  if (tensors.ok()) orthomerge::CheckTorchTensors(*tensors, "", kFileSize);
  return 0;
}
