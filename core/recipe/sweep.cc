#include "core/recipe/sweep.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

using Kind = YamlValue::Kind;
using Type = ParameterSchema::Type;

constexpr size_t kMaxVariants = 100;
constexpr absl::string_view kWanted =
    "a mapping from parameters to lists of values, or a list of variants with name and parameters";

// As short as it reads back.
std::string TextOf(const ParameterValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  return std::visit([](const auto& v) { return nlohmann::json(v).dump(); }, value);
}

class SweepReader {
 public:
  SweepReader(const MethodSchema& method, Reader* reader) : method_(method), reader_(*reader) {}

  std::vector<GivenVariant> Read(const YamlEntry& entry) {
    if (reader_.is_intermediate()) {
      Error(Reason::kUnsupported,
            "other recipes of this file read the result as one model; only the recipe whose "
            "result is wanted can sweep",
            "sweep", entry.key_location);
    }
    if (entry.value.kind == Kind::kMapping) {
      ReadGrid(entry.value);
    } else if (entry.value.kind == Kind::kList) {
      ReadList(entry.value);
    } else {
      reader_.WrongType(entry.value, "sweep", kWanted);
      return {};
    }
    if (variants_.empty() && !faulty_) {
      Error(Reason::kWrongType, absl::StrCat("empty; wanted ", kWanted), "sweep",
            entry.key_location);
    }
    return std::move(variants_);
  }

 private:
  void Error(Reason reason, std::string message, const std::string& field,
             const SourceLocation& location) {
    faulty_ = true;
    reader_.diagnostics().Error(reason, std::move(message), field, location);
  }

  bool IsTooMany(size_t count, const SourceLocation& location) {
    if (count <= kMaxVariants) return false;
    Error(Reason::kOutOfRange,
          absl::StrCat("more than ", kMaxVariants, " variants; a sweep may have so many"), "sweep",
          location);
    return true;
  }

  // Every list is gone through for every variant of those before it, in the schema's order.
  void ReadGrid(const YamlValue& grid) {
    std::vector<std::string> known;
    for (const ParameterSchema& schema : method_.parameters) {
      if (schema.type != Type::kTextList) known.push_back(schema.name);
    }
    if (!reader_.CheckKeys(grid, "sweep", known)) faulty_ = true;
    std::vector<GivenVariant> variants = {{}};
    for (const std::string& name : known) {
      const YamlEntry* entry = grid.Find(name);
      if (entry == nullptr) continue;
      const std::string field = Join("sweep", name);
      const YamlValue& list = entry->value;
      if (!reader_.CheckList(list, field, "a list of values")) faulty_ = true;
      if (list.kind != Kind::kList) continue;
      if (list.items.empty()) {
        Error(Reason::kWrongType, "an empty list; wanted values", field, list.location);
        continue;
      }
      if (IsTooMany(variants.size() * list.items.size(), entry->key_location)) return;
      std::vector<ParameterValue> values;
      for (size_t i = 0; i < list.items.size(); ++i) {
        auto value = ReadParameter(*method_.Find(name), list.items[i], Index(field, i), &reader_);
        faulty_ = faulty_ || !value.has_value();
        if (value.has_value()) values.push_back(*std::move(value));
      }
      std::vector<GivenVariant> longer;
      for (const GivenVariant& variant : variants) {
        for (const ParameterValue& value : values) {
          GivenVariant& next = longer.emplace_back(variant);
          absl::StrAppend(&next.name, next.name.empty() ? "" : ",", name, "=", TextOf(value));
          next.given[name] = value;
        }
      }
      variants = std::move(longer);
    }
    if (faulty_ || (variants.size() == 1 && variants[0].given.empty())) return;
    for (GivenVariant& variant : variants) Add(std::move(variant), "sweep", grid.location);
  }

  void ReadList(const YamlValue& list) {
    if (IsTooMany(list.items.size(), list.location)) return;
    for (size_t i = 0; i < list.items.size(); ++i) {
      const YamlValue& item = list.items[i];
      const std::string field = Index("sweep", i);
      if (!reader_.CheckMapping(item, field, "a mapping with name and parameters")) {
        faulty_ = true;
        continue;
      }
      reader_.CheckKeys(item, field, {"name", "parameters"});
      GivenVariant variant;
      const YamlEntry* name = item.Find("name");
      if (name == nullptr) {
        Error(Reason::kMissingKey,
              "missing; the variant's model is written to a folder of that name",
              Join(field, "name"), item.location);
        continue;
      }
      variant.name = reader_.ReadText(name->value, Join(field, "name"), "a name").value_or("");
      faulty_ = faulty_ || variant.name.empty();
      if (variant.name.empty()) continue;
      if (!IsPathName(variant.name)) {
        Error(Reason::kOutOfRange,
              absl::StrCat("'", variant.name,
                           "' cannot be a name: letters, digits, '-', '_' and '.' (not in front), "
                           "at most 100"),
              Join(field, "name"), name->value.location);
        continue;
      }
      variant.given = ReadParameters(item.Find("parameters"), Join(field, "parameters"), &method_,
                                     /*model_only=*/false, &reader_);
      Add(std::move(variant), Join(field, "name"), name->value.location);
    }
  }

  void Add(GivenVariant variant, const std::string& field, const SourceLocation& location) {
    if (!names_.insert(variant.name).second) {
      Error(Reason::kOutOfRange,
            absl::StrCat("two variants are named '", variant.name, "'; give each its own values"),
            field, location);
      return;
    }
    variants_.push_back(std::move(variant));
  }

  const MethodSchema& method_;
  Reader& reader_;
  std::vector<GivenVariant> variants_;
  std::set<std::string> names_;
  bool faulty_ = false;
};

}  // namespace

std::vector<GivenVariant> ReadSweep(const YamlEntry& entry, const MethodSchema& method,
                                    Reader* reader) {
  return SweepReader(method, reader).Read(entry);
}

}  // namespace orthomerge
