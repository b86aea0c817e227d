#include "server/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/service/harness.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> Faults(const Violations& violations) {
  std::vector<std::string> faults;
  for (const FieldViolation& violation : violations) {
    EXPECT_FALSE(violation.description.empty());
    faults.push_back(absl::StrCat(violation.field, " ", std::string(ReasonName(violation.reason))));
  }
  return faults;
}

v1::CreateMergeJobRequest DocumentRequest() {
  v1::CreateMergeJobRequest request = GoodRequest();
  request.mutable_merge_job()->mutable_spec()->mutable_document()->set_text("method: awd");
  return request;
}

TEST(ValidateCreateTest, AcceptsWhatIsFine) {
  EXPECT_THAT(Faults(Validate(GoodRequest("a-1"), {})), IsEmpty());
  EXPECT_THAT(Faults(Validate(DocumentRequest(), {})), IsEmpty());
  v1::CreateMergeJobRequest request = GoodRequest();
  request.set_request_id("123E4567-e89b-42d3-a456-426614174000");
  v1::MergeJobSpec* spec = request.mutable_merge_job()->mutable_spec();
  spec->set_priority(-100);
  spec->set_device("cuda:12");
  spec->set_memory_budget(1);
  spec->set_max_attempts(20);
  (*request.mutable_merge_job()->mutable_labels())["team-a_1"] = std::string(63, 'x');
  EXPECT_THAT(Faults(Validate(request, {})), IsEmpty());
}

struct Case {
  const char* expected;
  std::function<void(v1::CreateMergeJobRequest*)> change;
};

TEST(ValidateCreateTest, EveryRule) {
  const auto spec = [](auto* r) { return r->mutable_merge_job()->mutable_spec(); };
  const auto recipe = [&](auto* r) { return spec(r)->mutable_recipe(); };
  const auto labels = [](auto* r) { return r->mutable_merge_job()->mutable_labels(); };
  const std::string at = "merge_job.spec.recipe.";
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<Case> cases = {
      {"parent MISSING_KEY", [](auto* r) { r->clear_parent(); }},
      {"parent USAGE", [](auto* r) { r->set_parent("tenant/default"); }},
      {"parent USAGE", [](auto* r) { r->set_parent("tenants/a/b"); }},
      {"merge_job_id USAGE", [](auto* r) { r->set_merge_job_id("Big"); }},
      {"merge_job_id USAGE", [](auto* r) { r->set_merge_job_id("a-"); }},
      {"merge_job_id USAGE", [](auto* r) { r->set_merge_job_id(std::string(64, 'a')); }},
      {"request_id USAGE", [](auto* r) { r->set_request_id("once"); }},
      {"merge_job.spec MISSING_KEY", [](auto* r) { r->clear_merge_job(); }},
      {"merge_job.spec MISSING_KEY", [&](auto* r) { spec(r)->clear_source(); }},
      // Field 2000, a varint, in the job itself.
      {"merge_job UNKNOWN_FIELD",
       [](auto* r) { EXPECT_TRUE(r->mutable_merge_job()->MergeFromString("\x80\x7d\x01")); }},
      {"merge_job.spec.priority OUT_OF_RANGE", [&](auto* r) { spec(r)->set_priority(101); }},
      {"merge_job.spec.device USAGE", [&](auto* r) { spec(r)->set_device("cuda:01"); }},
      {"merge_job.spec.memory_budget OUT_OF_RANGE",
       [&](auto* r) { spec(r)->set_memory_budget(0); }},
      {"merge_job.spec.max_attempts OUT_OF_RANGE", [&](auto* r) { spec(r)->set_max_attempts(0); }},
      {"merge_job.labels[\"Team\"] USAGE", [&](auto* r) { (*labels(r))["Team"] = "x"; }},
      {"merge_job.labels[\"a\"] OUT_OF_RANGE",
       [&](auto* r) { (*labels(r))["a"] = std::string(64, 'x'); }},
      {"merge_job.labels OUT_OF_RANGE",
       [&](auto* r) {
         for (int i = 0; i < 33; ++i) (*labels(r))[absl::StrCat("k", i)] = "";
       }},
      {"merge_job.spec.document.text MISSING_KEY", [&](auto* r) { spec(r)->mutable_document(); }},
      {"merge_job.spec.document.text SPEC_TOO_LARGE",
       [&](auto* r) { spec(r)->mutable_document()->set_text(std::string(512 * 1024 + 1, ' ')); }},
      {"merge_job.spec SPEC_TOO_LARGE",
       [&](auto* r) {
         for (int i = 0; i < 900; ++i)
           recipe(r)->add_models()->set_uri("/" + std::string(700, 'x'));
       }},
      {"merge_job.spec.recipe.method MISSING_KEY", [&](auto* r) { recipe(r)->clear_method(); }},
      {"merge_job.spec.recipe.models[1].uri MISSING_KEY",
       [&](auto* r) { recipe(r)->mutable_models(1)->clear_uri(); }},
      {"merge_job.spec.recipe.models TOO_MANY_MODELS",
       [&](auto* r) {
         for (int i = 0; i < 999; ++i) recipe(r)->add_models()->set_uri("s3://a/b");
       }},
      {"merge_job.spec.recipe.models[0].weight OUT_OF_RANGE",
       [&](auto* r) { recipe(r)->mutable_models(0)->set_weight(inf); }},
      {"merge_job.spec.recipe.base.weight UNSUPPORTED",
       [&](auto* r) { recipe(r)->mutable_base()->set_weight(1); }},
      {"merge_job.spec.recipe.parameters.lambda MISSING_KEY",
       [&](auto* r) { (*recipe(r)->mutable_parameters())["lambda"]; }},
      {"merge_job.spec.recipe.parameters.lambda.gradient UNSUPPORTED",
       [&](auto* r) { (*recipe(r)->mutable_parameters())["lambda"].mutable_gradient(); }},
      {"merge_job.spec.recipe.models[0].parameters.k.filters UNSUPPORTED",
       [&](auto* r) {
         (*recipe(r)->mutable_models(0)->mutable_parameters())["k"].mutable_filters();
       }},
      {"merge_job.spec.recipe.slices UNSUPPORTED", [&](auto* r) { recipe(r)->add_slices(); }},
      {"merge_job.spec.recipe.modules UNSUPPORTED", [&](auto* r) { recipe(r)->add_modules(); }},
      {"merge_job.spec.recipe.input_dtype UNSUPPORTED",
       [&](auto* r) { recipe(r)->set_input_dtype("float32"); }},
      {"merge_job.spec.recipe.tokenizer UNSUPPORTED",
       [&](auto* r) { recipe(r)->mutable_tokenizer(); }},
      {"merge_job.spec.recipe.models[0].adapter UNSUPPORTED",
       [&](auto* r) { recipe(r)->mutable_models(0)->set_adapter("s3://a/b"); }},
      {"merge_job.spec.recipe.base.prefixes UNSUPPORTED",
       [&](auto* r) { recipe(r)->mutable_base()->add_prefixes(); }},
      {"merge_job.spec.recipe.models[0].prefixes[1].base USAGE",
       [&](auto* r) {
         for (int i = 0; i < 2; ++i) recipe(r)->mutable_models(0)->add_prefixes()->set_base("a.");
       }},
      {"merge_job.spec.recipe.sweep[0].name MISSING_KEY", [&](auto* r) { recipe(r)->add_sweep(); }},
      {"merge_job.spec.recipe.output.adapter.rank OUT_OF_RANGE",
       [&](auto* r) { recipe(r)->mutable_output()->mutable_adapter()->set_rank(0); }},
      {"merge_job.spec.recipe.statistics UNSUPPORTED",
       [&](auto* r) { (*recipe(r)->mutable_statistics())["fisher"] = "s3://a/b"; }},
      {"merge_job.spec.recipe.transforms[0].method MISSING_KEY",
       [&](auto* r) { recipe(r)->add_transforms(); }},
      {"merge_job.spec.recipe.output.uri MISSING_KEY", [&](auto* r) { recipe(r)->clear_output(); }},
      {"merge_job.spec.recipe.output.max_shard_size OUT_OF_RANGE",
       [&](auto* r) { recipe(r)->mutable_output()->set_max_shard_size(-1); }},
  };
  for (const Case& test : cases) {
    v1::CreateMergeJobRequest request = GoodRequest();
    test.change(&request);
    EXPECT_THAT(Faults(Validate(request, {})), ElementsAre(test.expected));
  }
}

TEST(ValidateCreateTest, EveryRuleOfMergekitsRecipes) {
  using Change = std::function<void(v1::Recipe*)>;
  const auto filter = [](v1::Recipe* r) {
    return (*r->mutable_parameters())["t"].mutable_filters()->add_filters();
  };
  const auto token = [](v1::Recipe* r) {
    v1::Token* added = r->mutable_tokenizer()->add_tokens();
    added->set_text("<a>");
    return added;
  };
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<std::pair<const char*, Change>> cases = {
      {"models[0].name UNSUPPORTED", [](auto* r) { r->mutable_models(0)->set_name("x"); }},
      {"models[0].prefixes UNSUPPORTED", [](auto* r) { r->mutable_models(0)->add_prefixes(); }},
      {"models[0].adapter USAGE", [](auto* r) { r->mutable_models(0)->set_adapter("lora"); }},
      {"models[0].parameters.weight USAGE",
       [](auto* r) {
         r->mutable_models(0)->set_weight(1);
         (*r->mutable_models(0)->mutable_parameters())["weight"].set_number(1);
       }},
      {"transforms UNSUPPORTED", [](auto* r) { r->add_transforms()->set_method("awd"); }},
      {"otherwise UNSUPPORTED", [](auto* r) { r->set_otherwise("base"); }},
      {"parameters.t.gradient.values MISSING_KEY",
       [](auto* r) { (*r->mutable_parameters())["t"].mutable_gradient(); }},
      {"parameters.t.gradient.values[1] OUT_OF_RANGE",
       [&](auto* r) {
         auto* gradient = (*r->mutable_parameters())["t"].mutable_gradient();
         gradient->add_values(1);
         gradient->add_values(inf);
       }},
      {"parameters.t.filters MISSING_KEY",
       [](auto* r) { (*r->mutable_parameters())["t"].mutable_filters(); }},
      {"parameters.t.filters[0].value MISSING_KEY", [&](auto* r) { filter(r); }},
      {"parameters.t.filters[0].value.number OUT_OF_RANGE",
       [&](auto* r) { filter(r)->mutable_value()->set_number(inf); }},
      {"parameters.t.filters[0].value.filters WRONG_TYPE",
       [&](auto* r) { filter(r)->mutable_value()->mutable_filters(); }},
      {"parameters.t.filters[0] RECIPE_SYNTAX",
       [&](auto* r) {
         v1::Filter* added = filter(r);
         added->mutable_value()->set_number(1);
         added->set_regex("a");
         added->set_glob("a");
       }},
      {"parameters.t.filters[0].contains USAGE",
       [&](auto* r) {
         v1::Filter* added = filter(r);
         added->mutable_value()->set_number(1);
         added->set_contains("regex:a");
       }},
      {"slices[0].sources MISSING_KEY", [](auto* r) { r->add_slices(); }},
      {"slices[0].sources[0].last_layer OUT_OF_RANGE",
       [](auto* r) { r->add_slices()->add_sources()->mutable_model()->set_uri("/m"); }},
      {"slices[0].sources[0].first_layer OUT_OF_RANGE",
       [](auto* r) {
         v1::SliceSource* source = r->add_slices()->add_sources();
         source->mutable_model()->set_uri("/m");
         source->set_first_layer(-1);
         source->set_last_layer(2);
       }},
      {"slices[0].sources[0].model.uri MISSING_KEY",
       [](auto* r) { r->add_slices()->add_sources()->set_last_layer(1); }},
      {"modules[0].name MISSING_KEY",
       [](auto* r) { r->add_modules()->add_models()->set_uri("/m"); }},
      {"modules[0] MISSING_KEY", [](auto* r) { r->add_modules()->set_name("x"); }},
      {"modules[1].name USAGE",
       [](auto* r) {
         for (int i = 0; i < 2; ++i) {
           v1::Module* module = r->add_modules();
           module->set_name("x");
           module->add_models()->set_uri("/m");
         }
       }},
      {"tokenizer.source OUT_OF_RANGE", [](auto* r) { r->mutable_tokenizer()->set_source("all"); }},
      {"tokenizer.tokens[1].text USAGE",
       [&](auto* r) {
         token(r);
         token(r);
       }},
      {"tokenizer.tokens[0].model MISSING_KEY", [&](auto* r) { token(r)->set_model_token("b"); }},
  };
  for (const auto& [expected, change] : cases) {
    v1::CreateMergeJobRequest request = GoodRequest();
    v1::Recipe* recipe = request.mutable_merge_job()->mutable_spec()->mutable_recipe();
    recipe->set_method("mergekit.slerp");
    recipe->clear_parameters();
    recipe->clear_transforms();
    change(recipe);
    EXPECT_THAT(Faults(Validate(request, {})),
                ElementsAre(absl::StrCat("merge_job.spec.recipe.", expected)));
  }
}

TEST(ValidateCreateTest, PlacesAreAbsolute) {
  for (const char* uri : {"out", "../out", "./s3:/b/k", "~/out"}) {
    v1::CreateMergeJobRequest request = GoodRequest();
    request.mutable_merge_job()->mutable_spec()->mutable_recipe()->mutable_output()->set_uri(uri);
    EXPECT_THAT(Faults(Validate(request, {})),
                ElementsAre("merge_job.spec.recipe.output.uri USAGE"));
    request = DocumentRequest();
    auto* document = request.mutable_merge_job()->mutable_spec()->mutable_document();
    document->set_relative_to("/data");
    document->set_output_uri(uri);
    EXPECT_THAT(Faults(Validate(request, {})),
                ElementsAre("merge_job.spec.document.output_uri USAGE"));
    document->set_output_uri("/out");
    document->set_relative_to(uri);
    EXPECT_THAT(Faults(Validate(request, {})),
                ElementsAre("merge_job.spec.document.relative_to USAGE"));
  }
}

TEST(ValidateCreateTest, FaultsWithoutNumberTakeLittleMemory) {
  v1::CreateMergeJobRequest request = GoodRequest();
  auto* recipe = request.mutable_merge_job()->mutable_spec()->mutable_recipe();
  for (int i = 0; i < 100000; ++i) recipe->add_transforms();
  for (int i = 0; i < 100000; ++i) recipe->add_models();
  for (int i = 0; i < 20000; ++i) {
    (*request.mutable_merge_job()->mutable_labels())[absl::StrCat("K", i)] = "";
  }
  EXPECT_LE(Validate(request, {}).size(), 1000u);
}

TEST(ValidateCreateTest, AllFaultsAtOnce) {
  v1::CreateMergeJobRequest request = GoodRequest();
  request.set_parent("");
  request.set_request_id("x");
  request.mutable_merge_job()->mutable_spec()->set_priority(500);
  request.mutable_merge_job()->mutable_spec()->mutable_recipe()->clear_output();
  EXPECT_THAT(Faults(Validate(request, {})),
              ElementsAre("parent MISSING_KEY", "request_id USAGE",
                          "merge_job.spec.recipe.output.uri MISSING_KEY",
                          "merge_job.spec.priority OUT_OF_RANGE"));
}

TEST(ValidateCreateTest, ADocumentMayHaveItsFullSize) {
  v1::CreateMergeJobRequest request = DocumentRequest();
  v1::RecipeDocument* document = request.mutable_merge_job()->mutable_spec()->mutable_document();
  document->set_text(std::string(512 * 1024, ' '));
  document->set_output_uri("s3://out/x");
  EXPECT_THAT(Faults(Validate(request, {})), IsEmpty());
}

// The bytes of a field that no version has: number 2000, varint 1.
constexpr char kUnknown[] = "\x80\x7d\x01";

TEST(FindUnknownTest, FindsFieldsAtAnyDepth) {
  v1::MergeJobSpec spec = GoodRequest().merge_job().spec();
  v1::Model* model = spec.mutable_recipe()->mutable_models(1);
  ASSERT_TRUE(model->MergeFromString(kUnknown));
  ASSERT_TRUE(spec.MergeFromString(kUnknown));
  Violations violations;
  FindUnknown(spec, "spec", true, &violations);
  EXPECT_THAT(Faults(violations),
              ElementsAre("spec UNKNOWN_FIELD", "spec.recipe.models[1] UNKNOWN_FIELD"));
  EXPECT_THAT(violations[1].description, HasSubstr("field number 2000 of orthomerge.v1.Model"));

  violations.clear();
  FindUnknown(spec, "spec", false, &violations);
  EXPECT_THAT(Faults(violations), ElementsAre("spec UNKNOWN_FIELD"));
}

TEST(FindUnknownTest, FindsValuesOfEnums) {
  v1::MergeJob job;
  job.set_state(static_cast<v1::MergeJob::State>(77));
  job.add_attempts()->set_outcome(v1::MergeJobAttempt::OUTCOME_LOST);
  Violations violations;
  FindUnknown(job, "job", true, &violations);
  EXPECT_THAT(Faults(violations), ElementsAre("job.state UNKNOWN_FIELD"));
  EXPECT_THAT(violations[0].description, HasSubstr("value 77 of orthomerge.v1.MergeJob.State"));
}

TEST(FindUnknownTest, StopsAtTheCap) {
  v1::MergeJobSpec spec;
  std::string bytes;
  for (int i = 0; i < 1000; ++i) bytes += kUnknown;
  ASSERT_TRUE(spec.ParseFromString(bytes));
  Violations violations;
  FindUnknown(spec, "spec", true, &violations);
  EXPECT_EQ(violations.size(), 50u);
}

TEST(ValidateOtherTest, NamesAndRanges) {
  v1::GetMergeJobRequest get;
  EXPECT_THAT(Faults(Validate(get, {})), ElementsAre("name MISSING_KEY"));
  get.set_name("tenants/a/mergeJobs/UPPER");
  EXPECT_THAT(Faults(Validate(get, {})), ElementsAre("name USAGE"));

  v1::ListMergeJobsRequest list;
  list.set_parent("tenants/a");
  list.set_page_size(-1);
  list.set_order_by("priority");
  EXPECT_THAT(Faults(Validate(list, {})), ElementsAre("page_size OUT_OF_RANGE", "order_by USAGE"));

  v1::CancelMergeJobRequest cancel;
  cancel.set_name("tenants/a/mergeJobs/b");
  std::string reason;
  for (int i = 0; i < 200; ++i) reason += "ü";
  cancel.set_reason(reason);
  EXPECT_THAT(Faults(Validate(cancel, {})), IsEmpty());
  cancel.set_reason(reason + "!");
  EXPECT_THAT(Faults(Validate(cancel, {})), ElementsAre("reason OUT_OF_RANGE"));

  v1::WatchMergeJobRequest watch;
  watch.set_name("tenants/a/mergeJobs/b");
  watch.mutable_min_interval()->set_nanos(-1);
  EXPECT_THAT(Faults(Validate(watch, {})), ElementsAre("min_interval OUT_OF_RANGE"));
}

}  // namespace
}  // namespace orthomerge
