// A config.json of any bytes: an accepted one is changed once, stays JSON where it was, and stays
// as it is when it is reconciled again.

#include "core/checkpoint/config.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using orthomerge::DType;
  using orthomerge::ModelPart;
  using orthomerge::ReconcileConfig;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto same = ReconcileConfig(text, {});
  const std::vector<orthomerge::LayerOrigin> layers = {{nullptr, 0}, {nullptr, 1}, {nullptr, 2}};
  // The first byte says how the model is divided: the parts' numbers may not stand in one place.
  orthomerge::ConfigChanges changes = {
      DType::kBF16, true, {{ModelPart::kText, layers}, {ModelPart::kVision, layers}}};
  if (size > 0 && data[0] == '\t') {
    changes.layers = {{ModelPart::kEncoder, layers}, {ModelPart::kDecoder, layers}};
  }
  const auto changed = ReconcileConfig(text, changes);
  FUZZ_CHECK(same.ok() == changed.ok());
  if (!same.ok()) return 0;
  FUZZ_CHECK(*same == text);
  const auto again = ReconcileConfig(*changed, changes);
  FUZZ_CHECK(again.ok() && *again == *changed);
  // NaN and Infinity, which the library refuses, may be in the text.
  FUZZ_CHECK(!nlohmann::json::accept(text) || nlohmann::json::accept(*changed));
  return 0;
}
