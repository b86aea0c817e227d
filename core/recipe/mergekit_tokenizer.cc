#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/text.h"
#include "core/recipe/chat_templates.h"
#include "core/recipe/mergekit_parts.h"

namespace orthomerge {
namespace {

using Kind = YamlValue::Kind;

constexpr int64_t kMostPadding = 1 << 20;
constexpr size_t kShortestTemplate = 20;

class TokenizerReader {
 public:
  TokenizerReader(const MergekitContext& context, const YamlValue& root)
      : reader_(context.reader), recipe_(context.recipe), root_(root) {}

  void Read() {
    const YamlEntry* old_form = FindValue(root_, "tokenizer_source");
    const YamlEntry* new_form = FindValue(root_, "tokenizer");
    if (old_form != nullptr && new_form != nullptr) {
      reader_.diagnostics().Error(Reason::kRecipeSyntax,
                                  "'tokenizer' stands beside it; a recipe has one of them",
                                  "tokenizer_source", old_form->key_location);
    }
    if (old_form != nullptr) {
      ReadSource(old_form->value, "tokenizer_source", &recipe_.tokenizer.emplace());
    } else if (new_form != nullptr) {
      ReadTokenizer(new_form->value, &recipe_.tokenizer.emplace());
    }
    if (const YamlEntry* entry = FindValue(root_, "chat_template")) ReadTemplate(entry->value);
  }

 private:
  void Error(Reason reason, std::string message, const std::string& field,
             const SourceLocation& location) {
    reader_.diagnostics().Error(reason, std::move(message), field, location);
  }

  // "union", "base" or a model.
  void ReadSource(const YamlValue& value, const std::string& field, RecipeTokenizer* tokenizer) {
    using Source = RecipeTokenizer::Source;
    if (value.kind == Kind::kText && value.text == "union") {
      tokenizer->source = Source::kUnion;
    } else if (value.kind == Kind::kText && value.text == "base") {
      tokenizer->source = Source::kBase;
    } else {
      tokenizer->source = Source::kModel;
      tokenizer->model = ReadModelReference(value, field, &reader_);
    }
  }

  void ReadTokenizer(const YamlValue& value, RecipeTokenizer* tokenizer) {
    if (!reader_.CheckMapping(value, "tokenizer",
                              "a mapping with source, tokens and "
                              "pad_to_multiple_of")) {
      return;
    }
    reader_.CheckKeys(value, "tokenizer", {"source", "tokens", "pad_to_multiple_of"});
    if (const YamlEntry* entry = FindValue(value, "source")) {
      ReadSource(entry->value, "tokenizer.source", tokenizer);
    }
    if (const YamlEntry* entry = FindValue(value, "tokens")) {
      if (reader_.CheckMapping(entry->value, "tokenizer.tokens", "a mapping from tokens")) {
        for (const YamlEntry& token : entry->value.entries) {
          ReadToken(token, &tokenizer->tokens.emplace_back());
        }
      }
    }
    if (const YamlEntry* entry = FindValue(value, "pad_to_multiple_of")) {
      const std::optional<int64_t> multiple =
          ReadInteger(entry->value, "tokenizer.pad_to_multiple_of", 1, kMostPadding);
      tokenizer->pad_to_multiple_of = multiple.value_or(0);
    }
  }

  std::optional<int64_t> ReadInteger(const YamlValue& value, const std::string& field,
                                     int64_t least, int64_t most) {
    const std::optional<int64_t> number =
        value.kind == Kind::kInteger ? ParseInteger(value.text) : std::nullopt;
    if (number.has_value() && least <= *number && *number <= most) return number;
    reader_.WrongType(value, field, absl::StrCat("an integer from ", least, " to ", most));
    return std::nullopt;
  }

  std::optional<bool> ReadBool(const YamlValue& value, const std::string& field) {
    if (value.kind == Kind::kBool) return value.text[0] == 't' || value.text[0] == 'T';
    reader_.WrongType(value, field, "true or false");
    return std::nullopt;
  }

  void ReadToken(const YamlEntry& entry, RecipeToken* token) {
    const std::string field = absl::StrCat("tokenizer.tokens.", entry.key);
    token->text = entry.key;
    if (!reader_.CheckMapping(entry.value, field, "a mapping with source and force")) return;
    reader_.CheckKeys(entry.value, field, {"source", "force"});
    if (const YamlEntry* force = FindValue(entry.value, "force")) {
      token->force = ReadBool(force->value, Join(field, "force")).value_or(false);
    }
    if (const YamlEntry* source = FindValue(entry.value, "source")) {
      ReadTokenSource(source->value, Join(field, "source"), token);
    }
  }

  // A model, {kind: zero} or {kind: model_token, model, token or token_id}.
  void ReadTokenSource(const YamlValue& value, const std::string& field, RecipeToken* token) {
    const YamlEntry* kind = value.kind == Kind::kMapping ? value.Find("kind") : nullptr;
    if (kind == nullptr) {
      token->source = RecipeToken::Source::kModel;
      token->model = ReadModelReference(value, field, &reader_);
    } else if (kind->value.text == "zero") {
      token->source = RecipeToken::Source::kZero;
      reader_.CheckKeys(value, field, {"kind"});
    } else if (kind->value.text == "model_token") {
      token->source = RecipeToken::Source::kModelToken;
      reader_.CheckKeys(value, field, {"kind", "model", "token", "token_id"});
      ReadModelToken(value, field, token);
    } else {
      Error(Reason::kOutOfRange,
            absl::StrCat(Quote(kind->value.text), " is not one of 'model_token' and 'zero'"),
            Join(field, "kind"), kind->value.location);
    }
  }

  void ReadModelToken(const YamlValue& value, const std::string& field, RecipeToken* token) {
    if (const YamlEntry* model = FindValue(value, "model")) {
      token->model = ReadModelReference(model->value, Join(field, "model"), &reader_);
    } else {
      Error(Reason::kMissingKey, "missing", Join(field, "model"), value.location);
    }
    const YamlEntry* text = FindValue(value, "token");
    const YamlEntry* id = FindValue(value, "token_id");
    if ((text == nullptr) == (id == nullptr)) {
      Error(text == nullptr ? Reason::kMissingKey : Reason::kRecipeSyntax,
            "wanted 'token' or 'token_id', one of them", field, value.location);
    }
    if (text != nullptr) {
      token->token = reader_.ReadText(text->value, Join(field, "token"), "a token");
    }
    if (id != nullptr) {
      token->token_id = ReadInteger(id->value, Join(field, "token_id"), 0, int64_t{1} << 31);
    }
  }

  void ReadTemplate(const YamlValue& value) {
    std::vector<std::string> known = {"auto"};
    known.insert(known.end(), ChatTemplateNames().begin(), ChatTemplateNames().end());
    const std::optional<std::string> text =
        reader_.ReadText(value, "chat_template", "'auto', a known template's name, or a template");
    if (!text.has_value()) return;
    const bool is_name = std::find(known.begin(), known.end(), *text) != known.end();
    if (is_name || (text->size() >= kShortestTemplate && absl::StrContains(*text, "{"))) {
      recipe_.chat_template = *text;
      return;
    }
    Error(Reason::kOutOfRange,
          absl::StrCat(Quote(*text), " is neither a known template (", Enumerate(known),
                       ") nor the text of one", DidYouMean(*text, known)),
          "chat_template", value.location);
  }

  Reader& reader_;
  Recipe& recipe_;
  const YamlValue& root_;
};

}  // namespace

void ReadTokenizer(const MergekitContext& context, const YamlValue& root) {
  TokenizerReader(context, root).Read();
}

}  // namespace orthomerge
