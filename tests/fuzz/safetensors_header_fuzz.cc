// A safetensors file of any bytes: what is accepted keeps the rules of the format and survives
// being written again.

#include <algorithm>
#include <string>
#include <vector>

#include "core/checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

namespace orthomerge {
namespace {

void Check(std::vector<TensorInfo> tensors, uint64_t data_begin, uint64_t file_size) {
  std::vector<TensorLayout> layout;
  for (size_t i = 0; i < tensors.size(); ++i) {
    FUZZ_CHECK(i == 0 || tensors[i - 1].name < tensors[i].name);
    FUZZ_CHECK(tensors[i].shape.size() <= kMaxRank);
    const auto bits = static_cast<unsigned __int128>(tensors[i].elements()) *
                      static_cast<unsigned>(BitsOf(tensors[i].dtype));
    FUZZ_CHECK(bits == static_cast<unsigned __int128>(tensors[i].bytes()) * 8);
    layout.push_back({tensors[i].name, tensors[i].dtype, tensors[i].shape});
  }
  const auto head = LayOutSafetensors(&layout);
  FUZZ_CHECK(head.ok());
  const uint64_t size = layout.empty() ? head->size() : layout.back().end;
  const auto again = ParseSafetensorsHeader(absl::string_view(*head).substr(8), size);
  FUZZ_CHECK(again.ok() && again->size() == tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    FUZZ_CHECK((*again)[i].name == tensors[i].name && (*again)[i].shape == tensors[i].shape &&
               (*again)[i].dtype == tensors[i].dtype);
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t end = data_begin;
  for (const TensorInfo& tensor : tensors) {
    FUZZ_CHECK(tensor.begin == end && tensor.end >= end);
    end = tensor.end;
  }
  FUZZ_CHECK(end == file_size);
}

void CheckFile(absl::string_view header, uint64_t file_size) {
  const auto tensors = ParseSafetensorsHeader(header, file_size);
  if (tensors.ok()) Check(*tensors, 8 + header.size(), file_size);
}

}  // namespace
}  // namespace orthomerge

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view file(reinterpret_cast<const char*>(data), size);
  const auto length = orthomerge::SafetensorsHeaderLength(file.substr(0, 8), size);
  if (length.ok()) {
    orthomerge::CheckFile(file.substr(8, *length), size);
  } else if (size > 8) {
    // All the rest as a header of a file whose size the first bytes give: so mutations that change
    // the header's length are not lost.
    uint64_t data_size = 0;
    for (int i = 0; i < 5; ++i) data_size = data_size << 8 | data[i];
    orthomerge::CheckFile(file.substr(8), size + data_size);
  }
  return 0;
}
