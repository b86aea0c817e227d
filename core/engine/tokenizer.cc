#include "core/engine/tokenizer.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/checkpoint/config.h"
#include "core/checkpoint/tensor_names.h"
#include "core/engine/intermediates.h"
#include "core/recipe/chat_templates.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

constexpr absl::string_view kTokenizer = "tokenizer.json";
constexpr absl::string_view kTokenizerConfig = "tokenizer_config.json";
constexpr absl::string_view kTemplateFile = "chat_template.jinja";
constexpr absl::string_view kProcessorTemplate = "chat_template.json";
constexpr uint64_t kLargest = 64 * kMiB;  // as sidecars

// A file of a folder; nothing where it is not there.
absl::StatusOr<std::optional<std::string>> ReadFile(PlanningStorage& storage, const Uri& folder,
                                                    absl::string_view name,
                                                    const CallOptions& call) {
  ASSIGN_OR_RETURN(ObjectStore* const store, storage.Of(folder).For(folder, StorageAccess::kRead));
  absl::StatusOr<std::string> text =
      ReadObject(*store, folder.Child(std::string(name)), kLargest, call);
  if (text.ok()) return *std::move(text);
  if (ReasonOf(text.status()) == Reason::kInputNotFound) return std::nullopt;
  return text.status();
}

absl::StatusOr<std::shared_ptr<const Vocabulary>> ParseAt(const Uri& folder,
                                                          const std::string& text) {
  absl::StatusOr<Vocabulary> vocabulary = Vocabulary::Parse(text);
  if (!vocabulary.ok()) {
    return Annotate(vocabulary.status(), folder.Child(std::string(kTokenizer)).ToString());
  }
  return std::make_shared<const Vocabulary>(*std::move(vocabulary));
}

absl::Status NoTokenizer(const Uri& folder) {
  return MakeError(
      Reason::kInputNotFound,
      absl::StrCat(folder.ToString(), ": no ", kTokenizer,
                   ", the only form of a tokenizer that is read; save it with Transformers first"));
}

bool Stays(absl::string_view name) {
  return name == kTokenizer || name == kTokenizerConfig || name == "special_tokens_map.json" ||
         absl::StrContains(name, "chat_template");
}

}  // namespace

class PlannedTokenizer::Maker {
 public:
  Maker(PlanningStorage& storage, const Recipe& recipe, const std::vector<ModelInput>& inputs,
        const std::vector<std::string>& names, const CallOptions& call, Diagnostics* diagnostics,
        PlannedTokenizer* result)
      : storage_(storage),
        recipe_(recipe),
        inputs_(inputs),
        names_(names),
        call_(call),
        diagnostics_(*diagnostics),
        result_(*result) {}

  absl::Status Make() {
    donor_ = FolderOf(inputs_[0]);
    if (recipe_.tokenizer.has_value()) RETURN_IF_ERROR(MakeVocabulary());
    ASSIGN_OR_RETURN(const std::optional<std::string> chat_template, FindTemplate());
    return MakeFiles(chat_template);
  }

 private:
  static std::optional<Uri> FolderOf(const ModelInput& input) {
    const Checkpoint& checkpoint = input.checkpoint();
    if (checkpoint.is_lone_file()) return std::nullopt;
    return checkpoint.folder();
  }

  absl::Status MakeVocabulary() {
    result_.wanted_ = *recipe_.tokenizer;
    for (size_t i = 0; i < inputs_.size(); ++i) RETURN_IF_ERROR(AddModel(i));
    const ModelTokens* source = nullptr;
    if (result_.wanted_.source == RecipeTokenizer::Source::kModel) {
      RETURN_IF_ERROR(ReadSource());
      source = &source_;
    }
    ASSIGN_OR_RETURN(result_.vocabulary_,
                     MakeOutputVocabulary(result_.wanted_, result_.models_, source, &diagnostics_));
    std::map<ModelReference, int> origins;
    int next = 0;
    if (recipe_.base.has_value()) origins[{*recipe_.base, recipe_.base_adapter}] = next++;
    for (const RecipeModel& model : recipe_.models) {
      origins.emplace(ModelReference{model.uri, model.adapter}, next++);
    }
    result_.rows_.emplace(result_.wanted_, result_.vocabulary_, result_.models_,
                          std::move(origins));
    return absl::OkStatus();
  }

  absl::Status AddModel(size_t i) {
    ModelTokens model;
    model.name = names_[i];
    const std::optional<Uri> folder = FolderOf(inputs_[i]);
    std::optional<std::string> text;
    if (folder.has_value()) {
      ASSIGN_OR_RETURN(text, ReadFile(storage_, *folder, kTokenizer, call_));
    }
    if (text.has_value()) {
      Count(*text);
      ASSIGN_OR_RETURN(model.vocabulary, ParseAt(*folder, *text));
    } else if (i == 0) {
      return NoTokenizer(folder.value_or(inputs_[i].uri()));
    } else {
      diagnostics_.Warning(absl::StrCat(names_[i], " has no ", kTokenizer, "; that of ", names_[0],
                                        " is taken for its own"),
                           "tokenizer");
      model.vocabulary = result_.models_[0].vocabulary;
    }
    const std::optional<std::string>& config = inputs_[i].checkpoint().config();
    if (config.has_value()) model.limit = VocabularySize(*config).value_or(model.limit);
    if (i == 0) donor_text_ = std::move(text);
    result_.models_.push_back(std::move(model));
    return absl::OkStatus();
  }

  // A vocabulary takes less than its text, reading it a few times as much.
  void Count(const std::string& text) {
    largest_ = std::max<uint64_t>(largest_, text.size());
    texts_ += text.size();
    result_.bytes_ = texts_ + 3 * largest_;
  }

  // The tokenizer of a model that need not be merged.
  absl::Status ReadSource() {
    if (!result_.wanted_.model.has_value()) {
      return MakeError(Reason::kInternal, "the tokenizer's model is missing");
    }
    const Uri& uri = result_.wanted_.model->uri;
    donor_ = uri;
    // A file of a model that is merged, too, stands for its folder.
    for (const ModelInput& input : inputs_) {
      if (input.checkpoint().uri() == uri && FolderOf(input).has_value()) donor_ = FolderOf(input);
    }
    ASSIGN_OR_RETURN(donor_text_, ReadFile(storage_, *donor_, kTokenizer, call_));
    if (!donor_text_.has_value()) return NoTokenizer(*donor_);
    source_.name = uri.ToString();
    Count(*donor_text_);
    ASSIGN_OR_RETURN(source_.vocabulary, ParseAt(*donor_, *donor_text_));
    return absl::OkStatus();
  }

  // Transformers prefers the file of its own.
  absl::StatusOr<std::optional<std::string>> TemplateAt(const Uri& folder) {
    ASSIGN_OR_RETURN(std::optional<std::string> text,
                     ReadFile(storage_, folder, kTemplateFile, call_));
    if (text.has_value()) return text;
    ASSIGN_OR_RETURN(const std::optional<std::string> config,
                     ReadFile(storage_, folder, kTokenizerConfig, call_));
    return config.has_value() ? ChatTemplateOf(*config) : std::nullopt;
  }

  absl::StatusOr<std::optional<std::string>> FindTemplate() {
    const std::string& wanted = recipe_.chat_template;
    if (wanted.empty()) return std::nullopt;
    if (wanted != "auto") return ChatTemplate(wanted).value_or(wanted);
    // The most frequent one; of equally frequent ones the first.
    std::vector<std::pair<std::string, int>> counts;
    for (const ModelInput& input : inputs_) {
      const std::optional<Uri> folder = FolderOf(input);
      if (!folder.has_value()) continue;
      ASSIGN_OR_RETURN(const std::optional<std::string> found, TemplateAt(*folder));
      const absl::string_view text =
          found.has_value() ? absl::StripAsciiWhitespace(*found) : absl::string_view();
      if (text.empty()) continue;
      const auto same = std::find_if(counts.begin(), counts.end(),
                                     [&](const auto& known) { return known.first == text; });
      if (same == counts.end()) {
        counts.emplace_back(text, 1);
      } else {
        ++same->second;
      }
    }
    if (counts.empty()) {
      diagnostics_.Warning("no model has a chat template, so the output has none", "chat_template");
      return std::nullopt;
    }
    return std::max_element(counts.begin(), counts.end(),
                            [](const auto& a, const auto& b) { return a.second < b.second; })
        ->first;
  }

  absl::Status MakeFiles(const std::optional<std::string>& chat_template) {
    std::vector<Sidecar> sidecars;
    if (donor_.has_value()) {
      ASSIGN_OR_RETURN(sidecars, FindSidecars(storage_.Of(*donor_), *donor_, call_));
    }
    const TokenChanges& changes = result_.vocabulary_.changes;
    const bool changed = changes.limit.has_value() || !changes.added.empty();
    bool has_config = false, has_template = false;
    std::vector<std::string> left_out;
    for (const Sidecar& sidecar : sidecars) {
      if (!sidecar.is_tokenizer) continue;
      // What the slow tokenizers read would give other ids.
      if (changed && !Stays(sidecar.name)) {
        left_out.push_back(sidecar.name);
        continue;
      }
      PlanBlob blob{sidecar.name, "", sidecar.file};
      if (changed && sidecar.name == kTokenizer) {
        RETURN_IF_ERROR(Change(&blob, ChangeTokenizer(*donor_text_, changes)));
      } else if (sidecar.name == kTokenizerConfig && (changed || chat_template.has_value())) {
        has_config = true;
        ASSIGN_OR_RETURN(const std::optional<std::string> text,
                         ReadFile(storage_, *donor_, kTokenizerConfig, call_));
        RETURN_IF_ERROR(
            Change(&blob, ChangeTokenizerConfig(text.value_or(""), changes, chat_template)));
      } else if (sidecar.name == kTemplateFile && chat_template.has_value()) {
        has_template = true;
        blob = {sidecar.name, *chat_template, std::nullopt};
      } else if (sidecar.name == kProcessorTemplate && chat_template.has_value()) {
        const nlohmann::json json = {{"chat_template", *chat_template}};
        blob = {sidecar.name,
                json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n",
                std::nullopt};
      }
      result_.files_.push_back(std::move(blob));
    }
    if (chat_template.has_value() && !has_config && !has_template) {
      result_.files_.push_back({std::string(kTemplateFile), *chat_template, std::nullopt});
    }
    if (!left_out.empty()) {
      std::string names;
      for (const std::string& name : left_out) {
        absl::StrAppend(&names, names.empty() ? "" : ", ", name);
      }
      diagnostics_.Warning(
          absl::StrCat("files that cannot hold the new vocabulary are left out: ", names),
          "tokenizer");
    }
    return absl::OkStatus();
  }

  absl::Status Change(PlanBlob* blob, absl::StatusOr<std::string> text) {
    if (!text.ok()) return Annotate(text.status(), blob->input->uri.ToString());
    blob->text = *std::move(text);
    blob->input.reset();
    return absl::OkStatus();
  }

  PlanningStorage& storage_;
  const Recipe& recipe_;
  const std::vector<ModelInput>& inputs_;
  const std::vector<std::string>& names_;
  const CallOptions& call_;
  Diagnostics& diagnostics_;
  PlannedTokenizer& result_;
  std::optional<Uri> donor_;  // the folder whose tokenizer files the output gets
  std::optional<std::string> donor_text_;
  ModelTokens source_;
  uint64_t texts_ = 0, largest_ = 0;  // bytes
};

absl::StatusOr<std::unique_ptr<PlannedTokenizer>> PlannedTokenizer::Make(
    PlanningStorage& storage, const Recipe& recipe, const std::vector<ModelInput>& inputs,
    const std::vector<std::string>& names, const CallOptions& call, Diagnostics* diagnostics) {
  std::unique_ptr<PlannedTokenizer> result;
  if (!recipe.tokenizer.has_value() && recipe.chat_template.empty()) return result;
  result = std::make_unique<PlannedTokenizer>();
  const absl::Status made =
      Maker(storage, recipe, inputs, names, call, diagnostics, result.get()).Make();
  if (!made.ok()) {
    diagnostics->Add(made, recipe.tokenizer.has_value() ? "tokenizer" : "chat_template");
    return made;
  }
  return result;
}

bool IsTokenTensor(absl::string_view name, const std::vector<int64_t>& shape,
                   std::optional<int64_t> vocabulary) {
  if (shape.empty() || shape[0] == 0) return false;
  if (IsEmbeddingName(name) || IsHeadName(name)) return true;
  if (absl::ConsumeSuffix(&name, ".bias")) return IsHeadName(absl::StrCat(name, ".weight"));
  if (shape.size() != 2 || shape[0] != vocabulary) return false;
  const std::string lower = absl::AsciiStrToLower(name);
  return (absl::StrContains(lower, "emb") || absl::StrContains(lower, "head")) &&
         !absl::StrContains(lower, "pos") && !absl::StrContains(lower, "type");
}

}  // namespace orthomerge
