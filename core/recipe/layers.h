// Which layer of which stack a tensor belongs to, from the names of a model's tensors alone.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace orthomerge {

// Layers that stand on each other: "model.layers.0" to "model.layers.31".
struct LayerStack {
  std::string prefix;  // up to the number, e.g. "model.layers."; empty: names begin with it
  int layers = 0;      // the largest number plus one
  bool has_usual_name = false;  // the word before the number is one such as "layers" or "blocks"
};

struct LayerPlace {
  int stack = -1;  // index into stacks(); -1: outside of all layers
  int layer = 0;
  size_t suffix = 0;  // where the name goes on behind the number, at a '.' or its end
};

// The first integer among the parts of a name (divided by dots) is its layer, if the words before
// it are the name of a stack: the last of them is a usual one (layers, layer, h, block, ...), or
// there are at least two numbers from 0 on without a hole. Numbers behind it, of experts or
// sublayers, are no stacks.
class ModelLayers {
 public:
  // Linear in the number of names.
  explicit ModelLayers(absl::Span<const std::string> names);

  const std::vector<LayerStack>& stacks() const { return stacks_; }
  // In the order of the names.
  const std::vector<LayerPlace>& places() const { return places_; }
  // Null if there is none.
  const LayerStack* Find(absl::string_view prefix) const;
  // The stack that slices mean: the only one with a usual name, else the only one. -1 if that is
  // not clear.
  int main_stack() const { return main_; }

 private:
  std::vector<LayerStack> stacks_;  // in the order of their first names
  std::unordered_map<std::string, int> by_prefix_;
  int main_ = -1;
  std::vector<LayerPlace> places_;
};

// 0 for the first of `layers` layers, 1 for the last; a lone layer is a last one.
double LayerDepth(int64_t layer, int64_t layers);

// Whether a tensor outside of the layers comes before them (embeddings and their kin) or after them
// (final norm, head and all others).
bool ComesBeforeLayers(absl::string_view name);

}  // namespace orthomerge
