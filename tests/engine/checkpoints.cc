#include "tests/engine/checkpoints.h"

#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "core/checkpoint/checkpoint.h"
#include "core/math/kernels.h"

namespace orthomerge {

namespace fs = std::filesystem;

int64_t TestTensor::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

std::vector<double> TestTensor::values() const {
  std::vector<double> result(static_cast<size_t>(elements()));
  LoadF64(dtype, bytes.data(), result.data(), elements());
  return result;
}

TestTensor MakeTensor(std::string name, DType dtype, std::vector<int64_t> shape,
                      const std::vector<double>& values) {
  TestTensor tensor{std::move(name), dtype, std::move(shape), ""};
  EXPECT_EQ(static_cast<int64_t>(values.size()), tensor.elements()) << tensor.name;
  tensor.bytes.resize(values.size() * static_cast<size_t>(BitsOf(dtype)) / 8);
  StoreF64(dtype, values.data(), tensor.bytes.data(), tensor.elements());
  return tensor;
}

TestTensor RandomTensor(std::string name, DType dtype, std::vector<int64_t> shape,
                        std::mt19937_64& random, double scale) {
  TestTensor tensor{std::move(name), dtype, std::move(shape), ""};
  const auto elements = static_cast<size_t>(tensor.elements());
  if (!IsMergeable(dtype)) {
    tensor.bytes.resize(elements * static_cast<size_t>(BitsOf(dtype)) / 8);
    for (char& c : tensor.bytes) c = static_cast<char>(random());
    return tensor;
  }
  // The sum of three uniform numbers: quick, and as good as normal ones here.
  std::vector<double> values(elements);
  for (double& value : values) {
    const uint64_t bits = random();
    value = scale *
            (static_cast<double>(bits & 0x1fffff) + static_cast<double>(bits >> 43) +
             static_cast<double>((bits >> 21) & 0x1fffff) - 1.5 * 0x1fffff) /
            0x100000;
  }
  return MakeTensor(tensor.name, dtype, tensor.shape, values);
}

TestTensor Near(const TestTensor& tensor, std::mt19937_64& random, double scale) {
  if (!IsMergeable(tensor.dtype)) return tensor;
  std::vector<double> values = tensor.values();
  const std::vector<double> noise =
      RandomTensor("", DType::kF64, {tensor.elements()}, random, scale).values();
  for (size_t i = 0; i < values.size(); ++i) values[i] += noise[i];
  return MakeTensor(tensor.name, tensor.dtype, tensor.shape, values);
}

TestModel Near(const TestModel& model, std::mt19937_64& random, double scale) {
  TestModel result;
  for (const TestTensor& tensor : model) result.push_back(Near(tensor, random, scale));
  return result;
}

const TestTensor& Find(const TestModel& model, absl::string_view name) {
  for (const TestTensor& tensor : model) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << "no tensor " << name;
  static const TestTensor none;
  return none;
}

TestTensor Cast(const TestTensor& tensor, DType dtype) {
  return MakeTensor(tensor.name, dtype, tensor.shape, tensor.values());
}

void WriteFile(const std::string& path, const std::string& bytes) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<int64_t>(bytes.size()));
}

void WriteModel(const std::string& folder, const TestModel& model, const std::string& config) {
  std::vector<TensorLayout> layouts;
  for (const TestTensor& tensor : model) {
    layouts.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  std::string file = LayOutSafetensors(&layouts).value();
  for (const TensorLayout& layout : layouts) {
    EXPECT_EQ(file.size(), layout.begin);
    file += Find(model, layout.name).bytes;
    EXPECT_EQ(file.size(), layout.end) << layout.name;
  }
  WriteFile(folder + "/model.safetensors", file);
  if (!config.empty()) WriteFile(folder + "/config.json", config);
}

TestModel ReadModel(const std::string& folder) {
  const std::unique_ptr<ObjectStore> store = MakeLocalStore();
  Storage storage(store.get(), nullptr);
  TestModel model;
  const absl::StatusOr<Checkpoint> checkpoint =
      Checkpoint::Open(storage, Uri::Parse(folder, "").value(), CallOptions(), nullptr);
  EXPECT_THAT(checkpoint, IsOk());
  if (!checkpoint.ok()) return model;
  for (const TensorInfo& info : checkpoint->tensors()) {
    TestTensor tensor{info.name, info.dtype, info.shape, std::string(info.bytes(), '\0')};
    EXPECT_THAT(
        store->Read(checkpoint->files()[info.file].uri, info.begin,
                    absl::MakeSpan(tensor.bytes.data(), tensor.bytes.size()), "", CallOptions()),
        IsOk());
    model.push_back(std::move(tensor));
  }
  return model;
}

std::map<std::string, std::string> FilesBelow(const std::string& folder) {
  std::map<std::string, std::string> files;
  if (!fs::exists(folder)) return files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = fs::relative(entry.path(), folder).string();
    if (entry.is_directory()) {
      files[name + "/"] = "";
      continue;
    }
    std::ostringstream bytes;
    bytes << std::ifstream(entry.path(), std::ios::binary).rdbuf();
    files[name] = bytes.str();
  }
  return files;
}

std::map<std::string, std::string> ModelFiles(const std::string& folder) {
  std::map<std::string, std::string> files = FilesBelow(folder);
  EXPECT_EQ(files.erase("report.json"), 1u);
  EXPECT_EQ(files.erase("orthomerge.json"), 1u);
  return files;
}

std::string FastFolder() {
  std::error_code error;
  if (fs::space("/dev/shm", error).available < kGiB || error) return "";
  if (access("/dev/shm", W_OK) != 0) return "";
  const TemporaryFolder probe("/dev/shm");
  return setxattr(probe.path().c_str(), "user.orthomerge.probe", "1", 1, 0) == 0 ? "/dev/shm" : "";
}

ParameterMap WithDefaults(const std::string& method, const ParameterMap& parameters) {
  ParameterMap result;
  const MethodSchema* schema = FindMethod(method);
  if (schema == nullptr) return parameters;
  for (const ParameterSchema& parameter : schema->parameters) {
    if (parameter.default_value.has_value()) result[parameter.name] = *parameter.default_value;
  }
  for (const auto& [name, value] : parameters) result[name] = value;
  return result;
}

void EngineTest::WriteModels(const TestModel& base, const std::vector<TestModel>& models) {
  if (!base.empty()) WriteModel(Path("base"), base);
  for (size_t i = 0; i < models.size(); ++i) WriteModel(Path(absl::StrCat("m", i)), models[i]);
}

Recipe EngineTest::MakeRecipe(const std::string& method, int k, const ParameterMap& parameters,
                              bool with_base) const {
  Recipe recipe;
  recipe.method = method;
  if (method.find("mergekit.") == 0) recipe.dialect = Recipe::Dialect::kMergekit;
  if (with_base) recipe.base = UriOf("base");
  for (int i = 0; i < k; ++i) {
    RecipeModel model;
    model.name = absl::StrCat("m", i);
    model.uri = UriOf(model.name);
    recipe.models.push_back(std::move(model));
  }
  recipe.parameters = WithDefaults(method, parameters);
  const MethodSchema* schema = FindMethod(method);
  for (const auto& [name, value] : recipe.parameters) {
    const ParameterSchema* parameter = schema == nullptr ? nullptr : schema->Find(name);
    if (parameter == nullptr || !parameter->per_model) continue;
    for (RecipeModel& model : recipe.models) model.parameters.emplace(name, value);
  }
  recipe.output.uri = UriOf("out");
  return recipe;
}

void EngineTest::AddTransform(const std::string& method, const ParameterMap& parameters,
                              Recipe* recipe) {
  recipe->transforms.push_back({method, WithDefaults(method, parameters)});
}

absl::StatusOr<std::unique_ptr<Plan>> EngineTest::TryPlan(const Recipe& recipe,
                                                          const EngineOptions& options) {
  diagnostics_ = Diagnostics();
  return MakePlan(storage_, recipe, options, CallOptions(), &diagnostics_);
}

std::unique_ptr<Plan> EngineTest::PlanOf(const Recipe& recipe, const EngineOptions& options) {
  absl::StatusOr<std::unique_ptr<Plan>> plan = TryPlan(recipe, options);
  EXPECT_THAT(plan, IsOk());
  return plan.ok() ? *std::move(plan) : nullptr;
}

absl::StatusOr<RunResult> EngineTest::TryRun(const Recipe& recipe, Storage& storage,
                                             const CallOptions& call,
                                             const EngineOptions& options) {
  diagnostics_ = Diagnostics();
  absl::StatusOr<std::unique_ptr<Plan>> plan =
      MakePlan(storage, recipe, options, CallOptions(), &diagnostics_);
  if (!plan.ok()) return plan.status();
  return RunPlan(storage, **plan, call, {});
}

RunResult EngineTest::Run(const Recipe& recipe, const EngineOptions& options) {
  absl::StatusOr<RunResult> result = TryRun(recipe, storage_, {}, options);
  EXPECT_THAT(result, IsOk());
  return result.ok() ? *std::move(result) : RunResult();
}

TestModel EngineTest::Merge(Recipe recipe, const EngineOptions& options) {
  recipe.output.uri = UriOf("merged-and-read");
  (void)Run(recipe, options);
  TestModel model = ReadModel(Path("merged-and-read"));
  fs::remove_all(Path("merged-and-read"));
  return model;
}

std::vector<std::string> EngineTest::Leftovers() const {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_.path())) {
    const std::string name = entry.path().filename().string();
    const bool model = name == "base" || (name.size() == 2 && name[0] == 'm');
    if (!model && name != "out") names.push_back(name);
  }
  return names;
}

NthFault::NthFault(ObjectStore* inner, int64_t nth, Reason reason, bool after_effect)
    : nth_(nth),
      reason_(reason),
      after_effect_(after_effect),
      store_(MakeFaultStore(
          inner, [this](Operation operation, const Uri& uri) { return Next(operation, uri); })),
      storage_(store_.get(), nullptr) {}

Fault NthFault::Next(Operation operation, const Uri& uri) {
  if (count_++ != nth_) return {};
  what_ = absl::StrCat("operation ", nth_, ", kind ", static_cast<int>(operation), ", ",
                       uri.ToString(), after_effect_ ? " (after its effect)" : "");
  return {MakeError(reason_, "made to fail"), after_effect_};
}

}  // namespace orthomerge
