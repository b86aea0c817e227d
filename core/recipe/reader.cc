#include "core/recipe/reader.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/bytes.h"
#include "core/base/text.h"

namespace orthomerge {
namespace {

using Kind = YamlValue::Kind;

const std::vector<std::string>& OutputDTypes() {
  static const auto& names =
      *new std::vector<std::string>{"bfloat16", "float16", "float32", "float64"};
  return names;
}

constexpr size_t kMaxPatterns = 100;  // each takes its share of memory

std::string DefaultName(const Uri& uri) {
  std::string name = uri.Name();
  for (const char* suffix : {".safetensors.index.json", ".safetensors"}) {
    if (absl::string_view rest = name; absl::ConsumeSuffix(&rest, suffix)) {
      name = std::string(rest);
      break;
    }
  }
  return name.empty() || name[0] == '.' ? "model" : name;
}

}  // namespace

std::string Join(absl::string_view parent, absl::string_view key) {
  return parent.empty() ? std::string(key) : absl::StrCat(parent, ".", key);
}

std::string Index(absl::string_view parent, size_t index) {
  return absl::StrCat(parent, "[", index, "]");
}

std::string Describe(const YamlValue& value) {
  switch (value.kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kBool:
      return value.text;
    case Kind::kInteger:
    case Kind::kFloat:
      return absl::StrCat("the number ", value.text.substr(0, 40));
    case Kind::kText:
      return absl::StrCat("the text ", Quote(value.text));
    case Kind::kList:
      return "a list";
    case Kind::kMapping:
      return "a mapping";
  }
  return "something else";
}

std::string Enumerate(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) absl::StrAppend(&text, i + 1 == words.size() ? " and " : ", ");
    absl::StrAppend(&text, "'", words[i], "'");
  }
  return text;
}

void Reader::WrongType(const YamlValue& value, const std::string& field, absl::string_view wanted) {
  diagnostics_.Error(Reason::kWrongType,
                     absl::StrCat("found ", Describe(value), ", wanted ", wanted), field,
                     value.location);
}

bool Reader::CheckMapping(const YamlValue& value, const std::string& field,
                          absl::string_view wanted) {
  if (value.kind == Kind::kMapping) return true;
  WrongType(value, field, wanted);
  return false;
}

bool Reader::CheckList(const YamlValue& value, const std::string& field, absl::string_view wanted) {
  if (value.kind == Kind::kList) return true;
  WrongType(value, field, wanted);
  return false;
}

void Reader::UnknownKey(const YamlEntry& entry, const std::string& field,
                        const std::vector<std::string>& known, absl::string_view hint) {
  constexpr size_t kShortList = 12;
  std::string message = absl::StrCat("unknown key ", Quote(entry.key), hint);
  if (hint.empty()) {
    const std::string suggestion = DidYouMean(entry.key, known);
    if (!suggestion.empty()) {
      message += suggestion;
    } else if (known.empty()) {
      message += "; none is known here";
    } else if (known.size() <= kShortList) {
      absl::StrAppend(&message, "; known: ", Enumerate(known));
    }
  }
  diagnostics_.Error(Reason::kUnknownKey, std::move(message), field, entry.key_location);
}

bool Reader::CheckKeys(const YamlValue& mapping, const std::string& field,
                       const std::vector<std::string>& known,
                       const std::function<std::string(const std::string& key)>& hint) {
  bool all_known = true;
  for (const YamlEntry& entry : mapping.entries) {
    if (std::find(known.begin(), known.end(), entry.key) != known.end()) continue;
    UnknownKey(entry, field, known, hint == nullptr ? "" : hint(entry.key));
    all_known = false;
  }
  return all_known;
}

std::optional<std::string> Reader::ReadText(const YamlValue& value, const std::string& field,
                                            absl::string_view wanted) {
  if (value.kind == Kind::kText) {
    if (!value.text.empty()) return value.text;
    diagnostics_.Error(Reason::kWrongType, absl::StrCat("empty; wanted ", wanted), field,
                       value.location);
    return std::nullopt;
  }
  const bool is_word =
      value.kind == Kind::kBool || value.kind == Kind::kInteger || value.kind == Kind::kFloat;
  WrongType(value, field,
            is_word ? absl::StrCat(wanted, " (put it in quotes)") : std::string(wanted));
  return std::nullopt;
}

std::optional<double> Reader::ReadNumber(const YamlValue& value, const std::string& field) {
  if (value.kind != Kind::kInteger && value.kind != Kind::kFloat) {
    const bool is_quoted = value.kind == Kind::kText && ParseDouble(value.text).has_value();
    WrongType(value, field, is_quoted ? "a number (without quotes)" : "a number");
    return std::nullopt;
  }
  const std::optional<double> number = ParseDouble(value.text);
  if (!number.has_value()) {
    diagnostics_.Error(Reason::kOutOfRange,
                       absl::StrCat("found ", Describe(value), ", wanted a finite number"), field,
                       value.location);
  }
  return number;
}

std::optional<Uri> Reader::ReadUri(const YamlValue& value, const std::string& field,
                                   const std::string& directory) {
  const std::optional<std::string> text = ReadText(value, field, "a path or URI");
  if (!text.has_value()) return std::nullopt;
  absl::StatusOr<Uri> uri = Uri::Parse(*text, directory);
  if (uri.ok()) return *std::move(uri);
  diagnostics_.Add(uri.status(), field, value.location);
  return std::nullopt;
}

std::optional<Uri> Reader::ReadModelUri(const YamlValue& value, const std::string& field,
                                        const std::string& directory) {
  if (stages_ == nullptr || stages_->empty() || value.kind != Kind::kText) {
    return ReadUri(value, field, directory);
  }
  const auto stage = stages_->find(value.text);
  if (stage != stages_->end()) {
    used_stages_.insert(stage->first);
    return stage->second;
  }
  constexpr size_t kShortest = 4;   // below, every word is near every other one
  constexpr int kMostLookups = 20;  // each compares with all names
  std::string suggestion;
  if (value.text.size() >= kShortest && value.text.find('/') == std::string::npos &&
      ++stage_lookups_ <= kMostLookups) {
    std::vector<std::string> names;
    for (const auto& [name, uri] : *stages_) names.push_back(name);
    suggestion = DidYouMean(value.text, names);
  }
  std::optional<Uri> uri = ReadUri(value, field, directory);
  if (!uri.has_value() || !suggestion.empty()) {
    const std::string message = absl::StrCat("no recipe of this file is named ", Quote(value.text),
                                             ", so it is a path", suggestion);
    diagnostics_.Warning(message, field, value.location);
  }
  return uri;
}

std::optional<NameFilter> Reader::ReadFilter(const YamlValue& value, const std::string& field) {
  if (value.kind == Kind::kText && value.text.empty()) return NameFilter();
  const std::optional<std::string> text =
      ReadText(value, field, "a part of tensors' names, regex:..., glob:... or '*'");
  if (!text.has_value()) return std::nullopt;
  if (const auto known = patterns_.find(*text); known != patterns_.end()) return known->second;
  absl::StatusOr<NameFilter> filter = NameFilter::Parse(*text);
  if (!filter.ok()) {
    diagnostics_.Add(filter.status(), field, value.location);
    return std::nullopt;
  }
  if (filter->is_pattern()) {
    if (patterns_.size() == kMaxPatterns) {
      diagnostics_.Error(
          Reason::kOutOfRange,
          absl::StrCat("more than ", kMaxPatterns, " different patterns (regex:, glob:)"), field,
          value.location);
      return std::nullopt;
    }
    patterns_.emplace(*text, *filter);
  }
  return *std::move(filter);
}

std::optional<DType> Reader::ReadDType(const YamlValue& value, const std::string& field,
                                       const std::vector<std::string>& allowed, bool short_forms) {
  const std::optional<std::string> text = ReadText(value, field, "a dtype");
  if (!text.has_value()) return std::nullopt;
  const std::optional<DType> dtype = DTypeFromText(*text);
  const std::string name = dtype.has_value() ? std::string(TextOf(*dtype)) : "";
  const bool is_allowed = std::find(allowed.begin(), allowed.end(), name) != allowed.end();
  if (is_allowed && (short_forms || absl::StripPrefix(*text, "torch.") == name)) return dtype;
  diagnostics_.Error(Reason::kOutOfRange,
                     absl::StrCat(Quote(*text), " is not one of ", Enumerate(allowed),
                                  DidYouMean(is_allowed ? name : *text, allowed)),
                     field, value.location);
  return std::nullopt;
}

std::optional<RecipeAdapter> Reader::ReadAdapter(const YamlEntry& entry) {
  constexpr int64_t kMaxRank = int64_t{1} << 20;
  const std::string field = "output.adapter", rank_field = "output.adapter.rank";
  RecipeAdapter adapter;
  if (!CheckMapping(entry.value, field, "a mapping with rank")) return adapter;
  CheckKeys(entry.value, field, {"rank"});
  const YamlEntry* rank = entry.value.Find("rank");
  if (rank == nullptr) {
    diagnostics_.Error(Reason::kMissingKey,
                       "missing; give the highest rank that a matrix may have, or 'exact' to put "
                       "adapters together without loss",
                       rank_field, entry.key_location);
    return adapter;
  }
  const YamlValue& value = rank->value;
  if (value.kind == Kind::kText && value.text == "exact") return adapter;
  if (value.kind != Kind::kInteger) {
    WrongType(value, rank_field, "an integer of at least 1, or 'exact'");
    return adapter;
  }
  const std::optional<uint64_t> number = ParseUnsigned(value.text);
  if (number.has_value() && *number >= 1 && *number <= kMaxRank) {
    adapter.rank = static_cast<int64_t>(*number);
  } else {
    diagnostics_.Error(Reason::kOutOfRange,
                       absl::StrCat("found ", Describe(value), ", wanted an integer from 1 to ",
                                    kMaxRank, ", or 'exact'"),
                       rank_field, value.location);
  }
  return adapter;
}

RecipeOutput Reader::ReadOutput(const YamlEntry* entry, const std::string& directory) {
  RecipeOutput output;
  const YamlValue* uri = nullptr;
  std::string uri_field = "output";
  if (entry != nullptr && entry->value.kind == Kind::kMapping) {
    const YamlValue& mapping = entry->value;
    CheckKeys(mapping, "output", {"uri", "dtype", "max_shard_size", "adapter"});
    uri_field = "output.uri";
    if (const YamlEntry* e = mapping.Find("uri")) uri = &e->value;
    if (const YamlEntry* e = mapping.Find("dtype")) {
      output.dtype = ReadDType(e->value, "output.dtype", OutputDTypes(), true);
    }
    if (const YamlEntry* e = mapping.Find("max_shard_size")) {
      const YamlValue& size = e->value;
      const std::string field = "output.max_shard_size";
      if (size.kind != Kind::kInteger && size.kind != Kind::kText) {
        WrongType(size, field, "a size such as 5GB, or a number of bytes");
      } else if (absl::StatusOr<uint64_t> bytes = ParseBytes(size.text); bytes.ok()) {
        output.max_shard_size = *bytes;
      } else {
        diagnostics_.Error(Reason::kOutOfRange, std::string(bytes.status().message()), field,
                           size.location);
      }
    }
    if (const YamlEntry* e = mapping.Find("adapter")) {
      if (is_intermediate_) {
        diagnostics_.Error(Reason::kUnsupported,
                           "other recipes of this file read the result as a model; only the "
                           "recipe whose result is wanted can write an adapter",
                           "output.adapter", e->key_location);
      } else {
        output.adapter = ReadAdapter(*e);
      }
    }
  } else if (entry != nullptr && entry->value.kind == Kind::kText) {
    uri = &entry->value;
  } else if (entry != nullptr) {
    WrongType(entry->value, "output",
              "a path, a URI or a mapping with uri, dtype, max_shard_size, adapter");
  }

  if (is_intermediate_) return output;
  if (overrides_.output_uri.has_value()) {
    // The command line wins; a stale URI in the file does no harm.
    absl::StatusOr<Uri> parsed = Uri::Parse(*overrides_.output_uri, file_.working_directory);
    if (parsed.ok()) {
      output.uri = *std::move(parsed);
    } else {
      diagnostics_.Add(parsed.status(), "--out");
    }
  } else if (uri != nullptr) {
    output.uri = ReadUri(*uri, uri_field, directory);
  }
  return output;
}

uint64_t Reader::ReadSeed(const YamlEntry* entry) {
  uint64_t seed = 0;
  if (entry != nullptr) {
    const YamlValue& value = entry->value;
    if (value.kind != Kind::kInteger) {
      WrongType(value, "seed", "an integer that is not negative");
    } else if (const std::optional<uint64_t> number = ParseUnsigned(value.text)) {
      seed = *number;
    } else {
      diagnostics_.Error(
          Reason::kOutOfRange,
          absl::StrCat("found ", Describe(value), ", wanted an integer from 0 to 2^64 - 1"), "seed",
          value.location);
    }
  }
  return overrides_.seed.value_or(seed);
}

void Reader::CheckModelCount(size_t count, const MethodSchema* method, const std::string& field,
                             const SourceLocation& location, absl::string_view hint) {
  const size_t min = method == nullptr ? 1 : std::max(1, method->min_models);
  const auto models = [](size_t n) { return absl::StrCat(n, n == 1 ? " model" : " models"); };
  const std::string who =
      method == nullptr ? "a method"
                        : absl::StrCat("'", absl::StripPrefix(method->name, "mergekit."), "'");
  if (count < min) {
    diagnostics_.Error(Reason::kTooFewModels,
                       absl::StrCat(who, " needs at least ", models(min), ", found ", count, hint),
                       field, location);
  } else if (method != nullptr && count > static_cast<size_t>(std::max(1, method->max_models))) {
    diagnostics_.Error(
        Reason::kTooManyModels,
        absl::StrCat(who, " takes at most ", models(method->max_models), ", found ", count, hint),
        field, location);
  }
}

bool IsPathName(absl::string_view text) {
  return !text.empty() && text.size() <= 100 && text[0] != '.' &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' ||
                  c == '.';
         });
}

void NameModels(std::vector<RecipeModel>* models) {
  std::set<std::string> taken;
  for (const RecipeModel& model : *models) taken.insert(model.name);
  std::map<std::string, int> next;  // so that many equal names do not take quadratic time
  for (RecipeModel& model : *models) {
    if (!model.name.empty()) continue;
    const std::string name = DefaultName(model.adapter.value_or(model.uri));
    model.name = name;
    for (int& number = next.emplace(name, 2).first->second; !taken.insert(model.name).second;) {
      model.name = absl::StrCat(name, "-", number++);
    }
  }
}

void WarnAboutRepeats(const Recipe& recipe, Diagnostics* diagnostics) {
  std::map<Uri, size_t> seen;
  for (size_t i = 0; i < recipe.models.size(); ++i) {
    const RecipeModel& model = recipe.models[i];
    const auto [first, is_new] = seen.emplace(model.uri, i);
    if (!is_new) {
      diagnostics->Warning(
          absl::StrCat("the same checkpoint as model ", Quote(recipe.models[first->second].name),
                       "; it counts as one more model"),
          "models", model.location);
    } else if (recipe.base == model.uri) {
      diagnostics->Warning(
          absl::StrCat("model ", Quote(model.name), " is the base; it counts as a model"), "models",
          model.location);
    }
  }
}

}  // namespace orthomerge
