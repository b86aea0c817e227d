// mergekit's methods, under its own definitions.
#include "core/methods/schema_parts.h"

namespace orthomerge {
namespace {

constexpr char kSource[] = "mergekit 0.1.5";
constexpr char kExact[] = "exact (float32, sums in float64, one rounding)";

ParameterSchema MergekitWeight() {
  return {.name = "weight", .type = Type::kNumber, .per_model = true, .help = "the model's weight"};
}

ParameterSchema Number(const std::string& name, double value, const std::string& help) {
  return {.name = name, .type = Type::kNumber, .default_value = value, .help = help};
}

ParameterSchema PerModel(const std::string& name, double value, const std::string& help) {
  return {
      .name = name, .type = Type::kNumber, .default_value = value, .per_model = true, .help = help};
}

ParameterSchema Switch(const std::string& name, bool value, const std::string& help) {
  return {.name = name, .type = Type::kBool, .default_value = value, .help = help};
}

ParameterSchema Required(const std::string& name, const std::string& help) {
  return {.name = name, .type = Type::kNumber, .help = help};
}

ParameterSchema Int8Mask() {
  return Switch("int8_mask", false, "accepted and without effect on the result, as in mergekit");
}

// task_arithmetic and what adds a sparsifier or an election to it.
struct TaskVectorMethod {
  const char* name;
  const char* summary;
  const char* density;  // help
  bool normalize, rescale;
  std::vector<ParameterSchema> more = {};
  double min_density = -1e308;  // less than 0 keeps nothing, but is no probability
};

MethodSchema SchemaOf(const TaskVectorMethod& method, bool is_random) {
  const bool elects = method.normalize || std::string(method.name).ends_with("ties");
  ParameterSchema density = PerModel("density", 1.0, method.density);
  density.min = method.min_density;
  MethodSchema schema{
      .name = method.name,
      .summary = method.summary,
      .source = kSource,
      .needs_base = true,
      .keeps_base = true,
      .exactness = is_random ? "exact for a seed (draws differ from mergekit's)" : kExact,
      .parameters = {MergekitWeight(), density, Lambda(1.0),
                     Switch("normalize", method.normalize,
                            elects ? "divide by the sum of the weights that took part, per element"
                                   : "divide by the sum of the weights"),
                     Switch("rescale", method.rescale,
                            "multiply a sparse task vector so that its magnitudes add up as before "
                            "(not by 1/density)"),
                     Int8Mask()}};
  schema.parameters.insert(schema.parameters.end(), method.more.begin(), method.more.end());
  return schema;
}

void AddTaskVectorSchemas(std::vector<MethodSchema>* methods) {
  constexpr char kRandom[] = "probability of each entry to stay; 1 or more keeps all";
  constexpr char kRanked[] = "mean probability of an entry to stay; 1 or more keeps all";
  constexpr char kShare[] =
      "share of a tensor's entries that stay, the largest; 1 or more keeps all";
  const ParameterSchema gamma{.name = "gamma",
                              .type = Type::kNumber,
                              .default_value = 0.01,
                              .min = 0,
                              .per_model = true,
                              .help = "share of a tensor's entries, the largest, that go first"};
  const ParameterSchema epsilon =
      PerModel("epsilon", 0.15,
               "the smallest entry of a row stays with density - epsilon, the "
               "largest with density + epsilon");
  const TaskVectorMethod exact[] = {
      {"mergekit.breadcrumbs",
       "mergekit's breadcrumbs: drops the largest and the smallest entries, then adds "
       "(per tensor; the paper: per row)",
       kShare,
       false,
       false,
       {gamma}},
      {"mergekit.breadcrumbs_ties",
       "mergekit's breadcrumbs_ties: drops the largest and the smallest entries, then elects signs",
       kShare,
       false,
       false,
       {gamma}},
      {"mergekit.task_arithmetic", "mergekit's task_arithmetic: base plus weighted task vectors",
       "accepted and without effect, as in mergekit", false, false},
      {"mergekit.ties",
       "mergekit's ties: trims per tensor (the paper: over the whole model) and elects signs by "
       "the weighted sum",
       kShare, true, false},
  };
  const TaskVectorMethod random[] = {
      {"mergekit.dare_linear",
       "mergekit's dare_linear: entries dropped at random, then added; rescaled to the same sum of "
       "magnitudes (the paper: by 1/density)",
       kRandom,
       false,
       true,
       {},
       0},
      {"mergekit.dare_ties",
       "mergekit's dare_ties: entries dropped at random, then signs elected (not normalised)",
       kRandom,
       false,
       true,
       {},
       0},
      {"mergekit.della",
       "mergekit's della: small entries dropped more often, then signs elected; rescaled to the "
       "same sum of magnitudes (the paper: each by its probability)",
       kRanked,
       true,
       true,
       {epsilon}},
      {"mergekit.della_linear",
       "mergekit's della_linear: small entries dropped more often, then added",
       kRanked,
       false,
       true,
       {epsilon}},
  };
  for (const TaskVectorMethod& method : exact) methods->push_back(SchemaOf(method, false));
  for (const TaskVectorMethod& method : random) methods->push_back(SchemaOf(method, true));
}

void AddSphericalSchemas(std::vector<MethodSchema>* methods) {
  methods->push_back({
      .name = "mergekit.slerp",
      .summary = "mergekit's slerp: from the base to one model along the sphere, per tensor",
      .source = kSource,
      .needs_base = true,
      .max_models = 1,
      .exactness = kExact,
      .parameters = {Required("t", "0 is the base, 1 the other model")},
  });
  methods->push_back({
      .name = "mergekit.nuslerp",
      .summary = "mergekit's nuslerp: between two models, or with a base between task vectors",
      .source = kSource,
      .min_models = 2,
      .max_models = 2,
      .exactness = kExact,
      .parameters = {MergekitWeight(),
                     Switch("nuslerp_flatten", true, "the whole tensor is one vector"),
                     Switch("nuslerp_row_wise", false,
                            "if not flattened: vectors along the first axis, else along the last "
                            "(as in mergekit, whose guide says it the other way round)")},
  });
  methods->push_back({
      .name = "mergekit.multislerp",
      .summary = "mergekit's multislerp: weighted mean on the sphere; with a base of task vectors",
      .source = kSource,
      .exactness = kExact,
      .parameters = {MergekitWeight(),
                     Switch("normalize_weights", true, "weights add up to 1"),
                     {.name = "eps",
                      .type = Type::kNumber,
                      .default_value = 1e-8,
                      .min = 0,
                      .help = "added to norms before dividing by them"}},
  });
  methods->push_back({
      .name = "mergekit.karcher",
      .summary = "mergekit's karcher: mean of all models on the sphere, equal weights",
      .source = kSource,
      .base_is_model = true,
      .exactness = kExact,
      .parameters = {{.name = "max_iter",
                      .type = Type::kInteger,
                      .default_value = int64_t{10},
                      .min = 0,
                      .max = 1e6,
                      .help = "steps at most"},
                     {.name = "tol",
                      .type = Type::kNumber,
                      .default_value = 1e-5,
                      .min = 0,
                      .help = "stops at a shorter step; shorter tensors have no direction"}},
  });
}

void AddSelectSchemas(std::vector<MethodSchema>* methods) {
  methods->push_back({
      .name = "mergekit.model_stock",
      .summary = "mergekit's model_stock: the mean, drawn to the base as the task vectors disagree "
                 "(the ratio is not clamped: opposed ones push away)",
      .source = kSource,
      .needs_base = true,
      .min_models = 2,
      .exactness = kExact,
      .parameters = {Switch("filter_wise", false, "for every row along the last axis by itself")},
  });
  methods->push_back({
      .name = "mergekit.sce",
      .summary = "mergekit's sce: entries that vary most, signs elected, weighted by mean square",
      .source = kSource,
      .needs_base = true,
      .keeps_base = true,
      .exactness = kExact,
      .parameters = {Number("select_topk", 1.0,
                            "share of a tensor's varying entries that stay; 1 or more keeps all"),
                     Int8Mask()},
  });
  const ParameterSchema epsilon{.name = "epsilon",
                                .type = Type::kNumber,
                                .default_value = 1e-5,
                                .min = 0,
                                .help = "entries of larger magnitude are active"};
  methods->push_back({
      .name = "mergekit.ram",
      .summary = "mergekit's ram: the mean of the active entries of the task vectors",
      .source = kSource,
      .needs_base = true,
      .keeps_base = true,
      .exactness = kExact,
      .parameters = {epsilon},
  });
  methods->push_back({
      .name = "mergekit.ramplus_tl",
      .summary = "mergekit's ramplus_tl: as ram, entries active in one model alone made larger",
      .source = kSource,
      .needs_base = true,
      .keeps_base = true,
      .exactness = kExact,
      .parameters = {Number("r", 0.1, "by r times the share of shared entries"),
                     Number("alpha", 0.2, "at most this share (per tensor and model)"), epsilon},
  });
  methods->push_back({
      .name = "mergekit.nearswap",
      .summary = "mergekit's nearswap: the model where it is near the base, else ever less of it",
      .source = kSource,
      .needs_base = true,
      .max_models = 1,
      .exactness = kExact,
      .parameters = {Required("t", "distance up to which an element is the model's")},
  });
  methods->push_back({
      .name = "mergekit.arcee_fusion",
      .summary = "mergekit's arcee_fusion: the model's important elements, else the base's "
                 "(exact quantiles, where mergekit draws a sample; output in the usual dtype)",
      .source = kSource,
      .needs_base = true,
      .max_models = 1,
      .exactness = "exact (float64 importance rounded to float32)",
      .parameters = {},
  });
}

}  // namespace

void AddMergekitSchemas(std::vector<MethodSchema>* methods) {
  methods->push_back({
      .name = "mergekit.linear",
      .summary = "mergekit's linear: weighted sum of the models",
      .source = kSource,
      .base_is_model = true,
      .exactness = kExact,
      .parameters = {MergekitWeight(),
                     Switch("normalize", true, "divide by the sum of the weights")},
  });
  methods->push_back({
      .name = "mergekit.passthrough",
      .summary = "mergekit's passthrough: one model, bytes copied (or scaled)",
      .source = kSource,
      .base_is_model = true,
      .max_models = 1,
      .exactness = "exact",
      .parameters = {{.name = "scale",
                      .type = Type::kNumber,
                      .optional = true,
                      .per_model = true,
                      .help = "multiplies every float tensor"}},
  });
  AddTaskVectorSchemas(methods);
  AddSphericalSchemas(methods);
  AddSelectSchemas(methods);
}

}  // namespace orthomerge
