// An adapter of any bytes: a config, a zero byte, then the header of its file. What is accepted and
// fits a base names every tensor of the file once, and its sizes are those of the base.

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/adapter.h"
#include "tests/fuzz/fuzz.h"

namespace {

using orthomerge::TensorInfo;

// A base that has whatever the adapter changes, in the shape that the factors say.
std::vector<TensorInfo> BaseFor(const std::vector<TensorInfo>& tensors, bool transposed) {
  std::vector<TensorInfo> base;
  for (const TensorInfo& b : tensors) {
    const size_t suffix = b.name.rfind(".lora_B.weight");
    if (suffix == std::string::npos || b.shape.empty()) continue;
    for (const TensorInfo& a : tensors) {
      if (a.name != b.name.substr(0, suffix) + ".lora_A.weight" || a.shape.empty()) continue;
      TensorInfo weight;
      const std::string prefix = "base_model.model.";
      if (suffix < prefix.size()) continue;
      weight.name = b.name.substr(prefix.size(), suffix - prefix.size()) + ".weight";
      weight.shape = a.shape;
      weight.shape[0] = b.shape[0];
      if (transposed) std::swap(weight.shape.front(), weight.shape.back());
      base.push_back(weight);
    }
  }
  return base;
}

void Check(const std::string& config, const std::vector<TensorInfo>& tensors, bool transposed) {
  const auto adapter = orthomerge::Adapter::Parse(config, tensors);
  if (!adapter.ok()) return;
  const std::vector<TensorInfo> base = BaseFor(tensors, transposed);
  orthomerge::Diagnostics diagnostics;
  const auto find = [&](absl::string_view name) -> const TensorInfo* {
    for (const TensorInfo& tensor : base) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  };
  const auto changes = adapter->Fit(find, &diagnostics);
  if (!changes.ok()) return;
  std::set<std::string> used;
  for (const orthomerge::TensorChange& change : *changes) {
    const TensorInfo* const weight = find(change.tensor);
    FUZZ_CHECK(weight != nullptr);
    if (!change.low_rank.has_value()) continue;
    const auto& [a, b, scale, is_transposed] = *change.low_rank;
    FUZZ_CHECK(used.insert(a.name).second && used.insert(b.name).second);
    FUZZ_CHECK(a.shape[0] > 0 && a.shape[0] == b.shape[1]);
    const int64_t in = a.elements() / a.shape[0], out = b.shape[0];
    FUZZ_CHECK(weight->shape[0] == (is_transposed ? in : out));
    FUZZ_CHECK(weight->elements() == in * out);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const size_t cut = text.find('\0');
  const std::string config = text.substr(0, cut);
  const std::string header = cut == std::string::npos ? "{}" : text.substr(cut + 1);
  // The file ends where its last tensor does.
  const size_t comma = header.rfind(',');
  const uint64_t end = comma == std::string::npos
                           ? 0
                           : std::strtoull(header.c_str() + comma + 1, nullptr, 10) % (1u << 30);
  const auto tensors = orthomerge::ParseSafetensorsHeader(header, 8 + header.size() + end);
  if (!tensors.ok()) return 0;
  Check(config, *tensors, false);
  Check(config, *tensors, true);
  return 0;
}
