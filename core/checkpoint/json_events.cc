#include "core/checkpoint/json_events.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace orthomerge {

std::string Quoted(absl::string_view text) {
  constexpr size_t kLongest = 200;
  const std::string escaped = absl::Utf8SafeCHexEscape(text.substr(0, kLongest));
  return absl::StrCat("'", escaped, text.size() > kLongest ? "...'" : "'");
}

absl::Status JsonEvents::Read(absl::string_view text, absl::string_view what) {
  depth_ = 0;
  fault_.clear();
  keys_.clear();
  const auto corrupt = [&](absl::string_view fault) {
    return MakeError(Reason::kInputCorrupt, absl::StrCat(what, " ", fault));
  };
  // The parser would take a zero byte for the end of its input and not see what follows.
  if (absl::StrContains(text, absl::string_view("\0", 1))) return corrupt("holds a zero byte");
  nlohmann::json_sax<nlohmann::json>* const sax = this;
  try {
    if (!nlohmann::json::sax_parse(text.data(), text.data() + text.size(), sax)) {
      return corrupt(fault_.empty() ? "is not valid JSON" : fault_);
    }
  } catch (const std::exception& error) {
    return corrupt(absl::StrCat("cannot be read: ", error.what()));
  }
  return absl::OkStatus();
}

bool JsonEvents::Fail(std::string fault) {
  if (fault_.empty()) fault_ = std::move(fault);
  return false;
}

bool JsonEvents::FailTwice(const std::string& key) {
  return Fail(absl::StrCat("has the field ", Quoted(key), " twice in one object"));
}

bool JsonEvents::null() { return depth_ > 0 ? Scalar({}) : Fail("is not a JSON object"); }

bool JsonEvents::boolean(bool value) {
  if (depth_ == 0) return Fail("is not a JSON object");
  return Scalar({.kind = JsonScalar::Kind::kBoolean, .truth = value});
}

bool JsonEvents::number_integer(int64_t value) {
  return number_float(static_cast<double>(value), "");
}

bool JsonEvents::number_unsigned(uint64_t value) {
  if (depth_ == 0) return Fail("is not a JSON object");
  return Scalar(
      {.kind = JsonScalar::Kind::kUnsigned, .number = value, .real = static_cast<double>(value)});
}

bool JsonEvents::number_float(double value, const std::string&) {
  if (depth_ == 0) return Fail("is not a JSON object");
  return Scalar({.kind = JsonScalar::Kind::kOtherNumber, .real = value});
}

bool JsonEvents::string(std::string& value) {
  if (depth_ == 0) return Fail("is not a JSON object");
  return Scalar({.kind = JsonScalar::Kind::kString, .text = &value});
}

bool JsonEvents::binary(nlohmann::json::binary_t&) { return Fail("is not JSON text"); }

bool JsonEvents::Start(bool array) {
  if (depth_ == 0 && array) return Fail("is not a JSON object");
  if (depth_ == kMaxDepth) return Fail(absl::StrCat("is nested more than ", kMaxDepth, " deep"));
  ++depth_;
  if (depth_ > 1) keys_.emplace_back();
  return Open(array);
}

bool JsonEvents::start_object(size_t) { return Start(false); }

bool JsonEvents::start_array(size_t) { return Start(true); }

bool JsonEvents::key(std::string& name) {
  if (depth_ > 1) keys_.back().push_back(name);
  return Key(name);
}

bool JsonEvents::end_object() {
  if (depth_ > 1) {
    std::vector<std::string>& keys = keys_.back();
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) return FailTwice(*twice);
  }
  return end_array();
}

bool JsonEvents::end_array() {
  if (!Close()) return false;
  if (depth_ > 1) keys_.pop_back();
  --depth_;
  return true;
}

bool JsonEvents::parse_error(size_t position, const std::string&,
                             const nlohmann::json::exception& error) {
  if (absl::StrContains(error.what(), "UTF-8")) {
    return Fail(absl::StrCat("is not UTF-8 (at byte ", position, ")"));
  }
  return Fail(absl::StrCat("is not valid JSON (at byte ", position, ")"));
}

}  // namespace orthomerge
