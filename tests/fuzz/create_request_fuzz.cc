// Any bytes as a CreateMergeJobRequest: faults of the request or a recipe document that the one
// reader of recipes judges, and in either case an answer that every client can take.
#include <string>
#include <vector>

#include "core/recipe/recipe.h"
#include "server/convert.h"
#include "server/errors.h"
#include "server/recipe_document.h"
#include "server/validate.h"
#include "tests/fuzz/fuzz.h"

namespace {

using orthomerge::v1::CreateMergeJobRequest;

void CheckAnswer(const orthomerge::CallError& error) {
  const google::rpc::Status status = orthomerge::ToStatusProto(error);
  FUZZ_CHECK(status.ByteSizeLong() <= orthomerge::kMaxStatusBytes);
  FUZZ_CHECK(status.code() != 0 && !status.message().empty() && status.details_size() > 0);
  google::rpc::Status parsed;  // its texts are UTF-8, or this fails
  FUZZ_CHECK(parsed.ParseFromString(status.SerializeAsString()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  CreateMergeJobRequest request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) return 0;
  const orthomerge::Violations violations = orthomerge::Validate(request, {});
  if (!violations.empty()) {
    CheckAnswer(orthomerge::InvalidRequest(violations));
    return 0;
  }
  const orthomerge::v1::MergeJobSpec& spec = request.merge_job().spec();
  const orthomerge::JobSpec job = orthomerge::SpecFromProto(spec);
  FUZZ_CHECK(!job.document.empty());
  if (job.output_uri.has_value()) FUZZ_CHECK(!job.output_uri->empty());
  const orthomerge::RecipeFile file{.name = job.document_name,
                                    .text = job.document,
                                    .directory = job.relative_to,
                                    .working_directory = job.relative_to};
  orthomerge::Diagnostics diagnostics;
  const absl::StatusOr<std::vector<orthomerge::RecipeStage>> recipes =
      orthomerge::ParseRecipes(file, {job.output_uri, job.seed}, &diagnostics);
  FUZZ_CHECK(recipes.ok() != diagnostics.has_errors());
  if (!recipes.ok()) {
    CheckAnswer(
        orthomerge::PlanningError(recipes.status(), diagnostics, "merge_job.spec", spec, {}));
  } else if (spec.has_recipe()) {
    // What was typed stands in the recipe, and nothing else.
    FUZZ_CHECK(recipes->size() == 1);
    FUZZ_CHECK(recipes->back().recipe.method == spec.recipe().method());
    FUZZ_CHECK(recipes->back().recipe.output.uri.has_value());
  }
  return 0;
}
