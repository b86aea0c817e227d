// Several recipes in one file.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/recipe/dialects.h"

namespace orthomerge {
namespace {

class StagesReader {
 public:
  StagesReader(const RecipeFile& file, const RecipeOverrides& overrides,
               std::vector<YamlValue> documents, Diagnostics* found)
      : file_(file), overrides_(overrides), documents_(std::move(documents)), found_(*found) {}

  std::vector<RecipeStage> Read() {
    stages_.resize(documents_.size());
    for (size_t i = 0; i < documents_.size(); ++i) ReadName(static_cast<int>(i));
    last_ = unnamed_ >= 0 ? unnamed_ : static_cast<int>(documents_.size()) - 1;
    for (size_t i = 0; i < documents_.size(); ++i) ReadDocument(static_cast<int>(i));
    const std::vector<int> order = InOrder();
    if (order.size() < stages_.size()) {
      ReportCycle(order);
      return {};
    }
    CheckLast();
    return Needed(order);
  }

 private:
  void ReadName(int index) {
    YamlValue& root = documents_[index];
    stages_[index].location = root.location;
    const YamlEntry* entry = root.Find("name");
    if (entry == nullptr) {
      if (unnamed_ >= 0) {
        found_.Error(
            Reason::kMissingKey,
            absl::StrCat("missing; the recipe in line ", documents_[unnamed_].location.line,
                         " has none either, and only one may be without"),
            "name", root.location);
      } else {
        unnamed_ = index;
      }
      return;
    }
    Reader reader(file_, overrides_, &found_);
    std::string name = reader.ReadText(entry->value, "name", "a name").value_or("");
    const SourceLocation location = entry->value.location;
    std::erase_if(root.entries, [](const YamlEntry& other) { return other.key == "name"; });
    if (name.empty()) return;
    if (!IsPathName(name)) {
      found_.Error(Reason::kOutOfRange,
                   absl::StrCat(Quote(name),
                                " cannot be a name: letters, digits, '-', '_' and "
                                "'.' (not in front), at most 100"),
                   "name", location);
      return;
    }
    const auto [known, is_new] = index_of_.emplace(name, index);
    if (!is_new) {
      found_.Error(Reason::kOutOfRange,
                   absl::StrCat("the name ", Quote(name), " is taken already in line ",
                                locations_[known->second].line),
                   "name", location);
      return;
    }
    locations_[index] = location;
    results_[name] = {Uri::Scheme::kStage, "", name};
    stages_[index].name = std::move(name);
  }

  void ReadDocument(int index) {
    RecipeStage& stage = stages_[index];
    Reader reader(file_, overrides_, &found_);
    reader.set_stages(&results_);
    if (index != last_) reader.set_is_intermediate();
    stage.recipe = ReadRecipe(documents_[index], &reader);
    for (const std::string& name : reader.used_stages()) {
      stage.needs.push_back(index_of_.at(name));
    }
  }

  // Every stage behind those it needs, else as in the file; the last one, where nothing needs it,
  // at the end. Those of a cycle are missing.
  std::vector<int> InOrder() const {
    std::vector<int> order;
    std::vector<int> waits_for(stages_.size());
    std::vector<std::vector<int>> users(stages_.size());
    std::set<int> ready;
    for (size_t i = 0; i < stages_.size(); ++i) {
      waits_for[i] = static_cast<int>(stages_[i].needs.size());
      for (const int need : stages_[i].needs) users[need].push_back(static_cast<int>(i));
      if (waits_for[i] == 0) ready.insert(static_cast<int>(i));
    }
    while (!ready.empty()) {
      auto next = ready.begin();
      if (*next == last_ && ready.size() > 1) ++next;
      order.push_back(*next);
      const int done = *next;
      ready.erase(next);
      for (const int user : users[done]) {
        if (--waits_for[user] == 0) ready.insert(user);
      }
    }
    return order;
  }

  void CheckLast() {
    for (const RecipeStage& stage : stages_) {
      if (std::find(stage.needs.begin(), stage.needs.end(), last_) == stage.needs.end()) continue;
      found_.Error(
          Reason::kOutOfRange,
          absl::StrCat(Quote(stages_[last_].name),
                       " stands last, so its result is the output, but ", Quote(stage.name),
                       " needs it; leave out the name of the recipe whose result is "
                       "wanted"),
          "name", locations_[last_]);
      return;
    }
  }

  // `order` without what the last one can do without.
  std::vector<RecipeStage> Needed(const std::vector<int>& order) {
    std::vector<bool> needed(stages_.size());
    needed[last_] = true;
    for (auto it = order.rbegin(); it != order.rend(); ++it) {
      if (!needed[*it]) continue;
      for (const int need : stages_[*it].needs) needed[need] = true;
    }
    std::vector<int> position(stages_.size(), -1);
    std::vector<RecipeStage> result;
    for (const int index : order) {
      RecipeStage& stage = stages_[index];
      if (!needed[index]) {
        found_.Warning(
            absl::StrCat("nothing needs the result of ", Quote(stage.name), "; it is not made"),
            "name", locations_[index]);
        continue;
      }
      position[index] = static_cast<int>(result.size());
      for (int& need : stage.needs) need = position[need];
      result.push_back(std::move(stage));
    }
    return result;
  }

  // Follows what waits until it comes round.
  void ReportCycle(const std::vector<int>& order) {
    const std::set<int> done(order.begin(), order.end());
    int stage = 0;
    while (done.contains(stage)) ++stage;
    std::vector<int> path;
    while (std::find(path.begin(), path.end(), stage) == path.end()) {
      path.push_back(stage);
      for (const int need : stages_[stage].needs) {
        if (!done.contains(need)) stage = need;
      }
    }
    path.erase(path.begin(), std::find(path.begin(), path.end(), stage));
    std::string text;
    for (const int index : path) absl::StrAppend(&text, Quote(stages_[index].name), " needs ");
    found_.Error(Reason::kOutOfRange,
                 absl::StrCat(text, Quote(stages_[path[0]].name), ": no order of these works"),
                 "name", locations_[path[0]]);
  }

  const RecipeFile& file_;
  const RecipeOverrides& overrides_;
  std::vector<YamlValue> documents_;
  Diagnostics& found_;
  std::vector<RecipeStage> stages_;
  int unnamed_ = -1;
  int last_ = -1;  // whose result is the output
  std::map<std::string, int> index_of_;
  std::map<std::string, Uri> results_;
  std::map<int, SourceLocation> locations_;  // of the names
};

}  // namespace

absl::StatusOr<std::vector<RecipeStage>> ParseRecipes(const RecipeFile& file,
                                                      const RecipeOverrides& overrides,
                                                      Diagnostics* diagnostics) {
  Diagnostics found;
  std::vector<RecipeStage> result;
  std::vector<YamlValue> documents = ParseYamlDocuments(file.name, file.text, &found);
  if (!documents.empty()) {
    result = StagesReader(file, overrides, std::move(documents), &found).Read();
  }
  AddSorted(found, file.name, diagnostics);
  if (found.has_errors()) return diagnostics->ToStatus();
  return result;
}

}  // namespace orthomerge
