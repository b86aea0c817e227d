// Which method is made by whom.
#include <array>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/methods/make.h"
#include "core/methods/method.h"

namespace orthomerge {
namespace {

struct MakerRow {
  const char* name;
  std::unique_ptr<Method> (*make)(const MethodSpec& spec);
};

constexpr std::array kMakers = {
    MakerRow{"average", MakeAverage},
    MakerRow{"awd", MakeAwd},
    MakerRow{"breadcrumbs", MakeBreadcrumbs},
    MakerRow{"consensus", MakeConsensus},
    MakerRow{"dare", MakeDare},
    MakerRow{"doge", MakeDoge},
    MakerRow{"emr", MakeEmr},
    MakerRow{"iso_c", MakeIsoC},
    MakerRow{"iso_cts", MakeIsoCts},
    MakerRow{"knots", MakeKnots},
    MakerRow{"mergekit.arcee_fusion", MakeMergekitArceeFusion},
    MakerRow{"mergekit.breadcrumbs", MakeMergekitSparse},
    MakerRow{"mergekit.breadcrumbs_ties", MakeMergekitSparse},
    MakerRow{"mergekit.dare_linear", MakeMergekitSparse},
    MakerRow{"mergekit.dare_ties", MakeMergekitSparse},
    MakerRow{"mergekit.della", MakeMergekitSparse},
    MakerRow{"mergekit.della_linear", MakeMergekitSparse},
    MakerRow{"mergekit.karcher", MakeMergekitKarcher},
    MakerRow{"mergekit.linear", MakeMergekitLinear},
    MakerRow{"mergekit.model_stock", MakeMergekitModelStock},
    MakerRow{"mergekit.multislerp", MakeMergekitMultislerp},
    MakerRow{"mergekit.nearswap", MakeMergekitNearswap},
    MakerRow{"mergekit.nuslerp", MakeMergekitNuslerp},
    MakerRow{"mergekit.passthrough", MakeMergekitPassthrough},
    MakerRow{"mergekit.ram", MakeMergekitRam},
    MakerRow{"mergekit.ramplus_tl", MakeMergekitRam},
    MakerRow{"mergekit.sce", MakeMergekitSce},
    MakerRow{"mergekit.slerp", MakeMergekitSlerp},
    MakerRow{"mergekit.task_arithmetic", MakeMergekitSparse},
    MakerRow{"mergekit.ties", MakeMergekitSparse},
    MakerRow{"model_stock", MakeModelStock},
    MakerRow{"pcb", MakePcb},
    MakerRow{"tall_masks", MakeTallMasks},
    MakerRow{"task_arithmetic", MakeTaskArithmetic},
    MakerRow{"tatr", MakeTatr},
    MakerRow{"ties", MakeTies},
    MakerRow{"tsv_m", MakeTsvM},
    MakerRow{"wudi", MakeWudi},
};

absl::StatusOr<std::unique_ptr<Method>> Make(const MethodSpec& spec) {
  for (const MakerRow& row : kMakers) {
    if (spec.name == row.name) return row.make(spec);
  }
  return MakeError(Reason::kUnknownMethod, absl::StrCat("unknown method '", spec.name, "'"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Method>> MakeMethod(const MethodSpec& spec,
                                                   absl::Span<const MethodSpec> transforms) {
  ASSIGN_OR_RETURN(std::unique_ptr<Method> method, Make(spec));
  if (transforms.empty()) return method;
  std::vector<std::unique_ptr<Method>> chain;
  for (const MethodSpec& transform : transforms) {
    ASSIGN_OR_RETURN(std::unique_ptr<Method> next, Make(transform));
    RETURN_IF_ERROR(next->CheckTransform());
    chain.push_back(std::move(next));
  }
  return MakeChain(std::move(chain), std::move(method));
}

}  // namespace orthomerge
