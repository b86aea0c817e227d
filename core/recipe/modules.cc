#include "core/recipe/modules.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/str_split.h"

namespace orthomerge {
namespace {

// A row: names for one kind of module.
const std::vector<std::vector<absl::string_view>>& Kinds() {
  static const auto& kinds = *new std::vector<std::vector<absl::string_view>>{
      {"text_decoder", "language_model", "text_model", "llm", "language_tower"},
      {"vision_tower", "visual", "vision_model", "vision_encoder", "vision_backbone"},
      {"multi_modal_projector", "mm_projector", "multimodal_projector", "connector", "projector",
       "merger", "deepstack_merger_list"},
  };
  return kinds;
}

// Those that hold what stands beside all modules, most likely first.
constexpr std::array<absl::string_view, 8> kRest = {"text_decoder", "language_model", "text_model",
                                                    "llm",          "decoder",        "default",
                                                    "model",        "language_tower"};

bool Means(absl::string_view module, absl::string_view part) {
  if (module == part) return true;
  return std::any_of(Kinds().begin(), Kinds().end(), [&](const auto& kind) {
    return std::find(kind.begin(), kind.end(), module) != kind.end() &&
           std::find(kind.begin(), kind.end(), part) != kind.end();
  });
}

// The index of the module that takes what is left; -1 if there is none.
int RestOf(absl::Span<const std::string> modules) {
  for (const absl::string_view rest : kRest) {
    const auto found = std::find(modules.begin(), modules.end(), rest);
    if (found != modules.end()) return static_cast<int>(found - modules.begin());
  }
  return -1;
}

}  // namespace

int ModuleOf(absl::Span<const std::string> modules, absl::string_view tensor) {
  // Innermost first: `visual.merger` joins the vision tower to the language model.
  const std::vector<absl::string_view> parts = absl::StrSplit(tensor, '.');
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    for (size_t i = 0; i < modules.size(); ++i) {
      // "model" is also what many models call their outermost part.
      if (modules[i] != "model" && Means(modules[i], *part)) return static_cast<int>(i);
    }
  }
  return RestOf(modules);
}

ModelPart PartOf(absl::Span<const std::string> modules, size_t module) {
  const auto self = modules.begin() + module;
  if (modules.size() == 1) return ModelPart::kText;
  const auto encoder = std::find(modules.begin(), modules.end(), "encoder");
  if (self == encoder) return ModelPart::kEncoder;
  if (RestOf(modules) == static_cast<int>(module)) {
    return encoder == modules.end() ? ModelPart::kText : ModelPart::kDecoder;
  }
  const auto vision = std::find_if(modules.begin(), modules.end(), [](const std::string& name) {
    return Means(name, "vision_tower");
  });
  return self == vision ? ModelPart::kVision : ModelPart::kOther;
}

}  // namespace orthomerge
