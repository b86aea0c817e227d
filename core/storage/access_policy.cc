#include "core/storage/access_policy.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"

namespace orthomerge {
namespace {

absl::StatusOr<std::vector<Uri>> ParseRoots(absl::Span<const std::string> texts,
                                            absl::string_view purpose) {
  std::vector<Uri> roots;
  for (const std::string& text : texts) {
    const absl::StatusOr<Uri> root = Uri::Parse(text, "");
    if (!root.ok()) {
      return Annotate(root.status(), absl::StrCat("what is open for ", purpose));
    }
    roots.push_back(*root);
  }
  return roots;
}

bool IsAtOrBelowAny(const Uri& uri, const std::vector<Uri>& roots) {
  return std::any_of(roots.begin(), roots.end(),
                     [&](const Uri& root) { return IsAtOrBelow(uri, root); });
}

absl::Status Refuse(const Uri& uri, absl::string_view why) {
  return MakeError(Reason::kUriNotAllowed, absl::StrCat(uri.ToString(), " ", why));
}

}  // namespace

bool IsAtOrBelow(const Uri& uri, const Uri& root) {
  if (uri.scheme != root.scheme || uri.bucket != root.bucket) return false;
  if (root.key.empty() || root.key == "/" || uri.key == root.key) return true;
  return uri.key.size() > root.key.size() && absl::StartsWith(uri.key, root.key) &&
         uri.key[root.key.size()] == '/';
}

AccessPolicy AccessPolicy::AllowAll() {
  AccessPolicy policy;
  policy.allows_all_ = true;
  return policy;
}

absl::StatusOr<AccessPolicy> AccessPolicy::Parse(absl::Span<const std::string> read,
                                                 absl::Span<const std::string> write) {
  AccessPolicy policy;
  ASSIGN_OR_RETURN(policy.read_, ParseRoots(read, "reading"));
  ASSIGN_OR_RETURN(policy.write_, ParseRoots(write, "writing"));
  return policy;
}

absl::Status AccessPolicy::Check(const Uri& uri, StorageAccess access) const {
  if (allows_all_) return absl::OkStatus();
  if (access == StorageAccess::kRead) {
    if (IsAtOrBelowAny(uri, read_) || IsAtOrBelowAny(uri, write_)) return absl::OkStatus();
    return Refuse(uri,
                  "is outside what this server opens for reading; use a place that it opens or "
                  "ask its operator");
  }
  for (const Uri& root : write_) {
    if (uri != root && IsAtOrBelow(uri, root)) return absl::OkStatus();
  }
  if (IsAtOrBelowAny(uri, write_)) {
    return Refuse(uri, "is itself a place that this server opens for writing; name a folder in it");
  }
  return Refuse(uri,
                "is outside what this server opens for writing; use a place that it opens or ask "
                "its operator");
}

}  // namespace orthomerge
