// What holds for the tensors of every torch file that is accepted.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/strided_view.h"
#include "core/storage/utf8.h"
#include "tests/fuzz/fuzz.h"

namespace orthomerge {

// `file` may be empty where there is only its size.
inline void CheckTorchTensors(const std::vector<TensorInfo>& tensors, absl::string_view file,
                              uint64_t file_size) {
  uint64_t total = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    FUZZ_CHECK(IsUtf8(tensor.name));
    FUZZ_CHECK(i == 0 || tensors[i - 1].name < tensor.name);
    FUZZ_CHECK(tensor.shape.size() <= kMaxRank);
    for (const int64_t size : tensor.shape) FUZZ_CHECK(size >= 0);
    const auto bits = static_cast<unsigned __int128>(tensor.elements()) *
                      static_cast<unsigned>(BitsOf(tensor.dtype));
    FUZZ_CHECK(bits == static_cast<unsigned __int128>(tensor.bytes()) * 8);
    FUZZ_CHECK(tensor.view != nullptr || tensor.end <= file_size);
    total += tensor.bytes();
    FUZZ_CHECK(total <= 16 * file_size + 64 * kMiB);
    if (tensor.view == nullptr) continue;
    std::string bytes(std::min<uint64_t>(tensor.bytes(), 64 * kKiB), '\0');
    const uint64_t begin = tensor.bytes() - bytes.size();  // the end reaches furthest
    const auto read = [&](uint64_t offset, absl::Span<char> out) {
      FUZZ_CHECK(!out.empty() && out.size() <= kStridedBlock);
      FUZZ_CHECK(offset <= file_size && out.size() <= file_size - offset);
      if (!file.empty()) std::memcpy(out.data(), file.data() + offset, out.size());
      return absl::OkStatus();
    };
    FUZZ_CHECK(
        ReadStrided(read, *tensor.view, begin, absl::MakeSpan(&bytes[0], bytes.size())).ok());
  }
}

}  // namespace orthomerge
