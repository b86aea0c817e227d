#include "core/storage/s3_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/storage/s3_client.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kMetadataPrefix = "x-amz-meta-";
constexpr int kMaxParts = 10000;

NamedValues HeadersOf(const Metadata& metadata, Condition condition) {
  NamedValues headers;
  for (const auto& [key, value] : metadata) {
    headers.emplace_back(absl::StrCat(kMetadataPrefix, key), value);
  }
  if (condition == Condition::kIfAbsent) headers.emplace_back("if-none-match", "*");
  return headers;
}

// MinIO answered a failed If-None-Match with 304 until 2024.
bool ConditionFailed(const S3Response& response, Condition condition) {
  return condition == Condition::kIfAbsent && (response.status == 412 || response.status == 304);
}

absl::Status Exists(const Uri& uri) {
  return MakeError(
      Reason::kOutputExists,
      absl::StrCat(uri.ToString(), " exists already; remove it or choose another output"));
}

std::string FolderPrefix(const Uri& uri) {
  return uri.key.empty() ? "" : absl::StrCat(uri.key, "/");
}

// Whether a key is one that Uri::Parse accepts: no folder markers, no dot segments.
bool IsNameable(const Uri& uri) {
  return !absl::EndsWith(uri.key, "/") && Uri::Parse(uri.ToString(), "").ok();
}

class S3Store final : public ObjectStore {
 public:
  explicit S3Store(const S3Options& options) : client_(options) {}

  absl::StatusOr<ObjectInfo> Stat(const Uri& uri, const CallOptions& options) override {
    RETURN_IF_ERROR(CheckObject(uri));
    const S3Request request = {.method = "HEAD", .uri = uri, .action = "read"};
    ASSIGN_OR_RETURN(S3Response response, client_.Call(request, options));
    if (!response.ok()) {
      const absl::Status why = WhyNoHead(request, response, options);
      // Asking why may have renewed the keys; then the question can be put again.
      if (!why.ok()) return why;
      ASSIGN_OR_RETURN(response, client_.Call(request, options));
      if (!response.ok()) return client_.ErrorOf(request, response);
    }
    ObjectInfo info;
    if (!absl::SimpleAtoi(response.http.Header("content-length"), &info.size)) {
      return MakeError(Reason::kStorageUnavailable,
                       absl::StrCat("the server does not tell the size of ", uri.ToString()));
    }
    info.etag = std::string(response.http.Header("etag"));
    if (info.etag.empty()) {
      return MakeError(Reason::kUnsupported,
                       absl::StrCat("the server gives ", uri.ToString(),
                                    " no ETag, so a change could not be noticed; upload it again "
                                    "through the server"));
    }
    for (const auto& [name, value] : response.http.headers) {
      absl::string_view key = name;
      if (absl::ConsumePrefix(&key, kMetadataPrefix)) info.metadata[std::string(key)] = value;
    }
    return info;
  }

  absl::Status Read(const Uri& uri, uint64_t offset, absl::Span<char> out,
                    absl::string_view if_match, const CallOptions& options) override {
    RETURN_IF_ERROR(CheckObject(uri));
    if (out.empty()) return options.Check();
    const S3Request request = {.method = "GET",
                               .uri = uri,
                               .action = "read",
                               .out = out,
                               .offset = offset,
                               .if_match = std::string(if_match)};
    ASSIGN_OR_RETURN(const S3Response response, client_.Call(request, options));
    return response.ok() ? absl::OkStatus() : client_.ErrorOf(request, response);
  }

  absl::Status Put(const Uri& uri, absl::string_view bytes, const Metadata& metadata,
                   Condition condition, const CallOptions& options) override {
    RETURN_IF_ERROR(CheckObject(uri));
    RETURN_IF_ERROR(CheckMetadata(metadata));
    const S3Request request = {.method = "PUT",
                               .uri = uri,
                               .action = "write",
                               .headers = HeadersOf(metadata, condition),
                               .has_body = true,
                               .body = bytes};
    ASSIGN_OR_RETURN(const S3Response response, client_.Call(request, options));
    if (response.ok()) return absl::OkStatus();
    if (!ConditionFailed(response, condition)) return client_.ErrorOf(request, response);
    // The answer to an earlier attempt may have been lost. Size and metadata alone would not tell
    // our object from another writer's of the same plan, so the bytes decide.
    if (response.repeated) {
      ASSIGN_OR_RETURN(const bool ours, IsThere(uri, bytes, metadata, options));
      if (ours) return absl::OkStatus();
    }
    return Exists(uri);
  }

  absl::StatusOr<std::string> StartUpload(const Uri& uri, const Metadata& metadata,
                                          const CallOptions& options) override {
    RETURN_IF_ERROR(CheckObject(uri));
    RETURN_IF_ERROR(CheckMetadata(metadata));
    const S3Request request = {.method = "POST",
                               .uri = uri,
                               .action = "write",
                               .query = {{"uploads", ""}},
                               .headers = HeadersOf(metadata, Condition::kNone),
                               .has_body = true,
                               .expected_root = "InitiateMultipartUploadResult"};
    ASSIGN_OR_RETURN(const S3Response response, client_.Call(request, options));
    if (!response.ok()) return client_.ErrorOf(request, response);
    return std::string(response.xml.Text("UploadId"));
  }

  absl::StatusOr<std::string> PutPart(const Uri& uri, const std::string& upload_id, int number,
                                      uint64_t /*offset*/, absl::string_view bytes,
                                      const CallOptions& options) override {
    RETURN_IF_ERROR(CheckObject(uri));
    if (number < 1 || number > kMaxParts) {
      return MakeError(Reason::kInternal, absl::StrCat("part ", number, " of ", uri.ToString(),
                                                       ": S3 has parts 1 to ", kMaxParts));
    }
    const S3Request request = {
        .method = "PUT",
        .uri = uri,
        .action = "write",
        .query = {{"partNumber", absl::StrCat(number)}, {"uploadId", upload_id}},
        .has_body = true,
        .body = bytes};
    ASSIGN_OR_RETURN(const S3Response response, client_.Call(request, options));
    if (!response.ok()) return client_.ErrorOf(request, response);
    return std::string(response.http.Header("etag"));
  }

  // The server has made a part durable before it answers.
  absl::Status SyncUpload(const Uri&, const std::string&, const CallOptions& options) override {
    return options.Check();
  }

  absl::Status CompleteUpload(const Uri& uri, const std::string& upload_id,
                              absl::Span<const std::string> tags, Condition condition,
                              const CallOptions& options) override {
    RETURN_IF_ERROR(CheckObject(uri));
    std::string body = "<CompleteMultipartUpload>";
    for (size_t i = 0; i < tags.size(); ++i) {
      absl::StrAppend(&body, "<Part><PartNumber>", i + 1, "</PartNumber><ETag>", EscapeXml(tags[i]),
                      "</ETag></Part>");
    }
    body += "</CompleteMultipartUpload>";
    const S3Request request = {.method = "POST",
                               .uri = uri,
                               .action = "write",
                               .query = {{"uploadId", upload_id}},
                               .headers = HeadersOf({}, condition),
                               .has_body = true,
                               .body = body,
                               .expected_root = "CompleteMultipartUploadResult",
                               .slow_answer = true};
    ASSIGN_OR_RETURN(const S3Response response, client_.Call(request, options));
    if (response.ok()) return absl::OkStatus();
    if (ConditionFailed(response, condition) || response.code == "PreconditionFailed") {
      return Exists(uri);
    }
    return client_.ErrorOf(request, response);
  }

  absl::Status AbortUpload(const Uri& uri, const std::string& upload_id,
                           const CallOptions& options) override {
    RETURN_IF_ERROR(CheckObject(uri));
    const S3Request request = {
        .method = "DELETE", .uri = uri, .action = "remove", .query = {{"uploadId", upload_id}}};
    return Remove(request, options);
  }

  absl::StatusOr<std::vector<std::string>> ListUploads(const Uri& uri,
                                                       const CallOptions& options) override {
    RETURN_IF_ERROR(CheckObject(uri));
    std::vector<std::string> ids;
    std::string key_marker, id_marker;
    while (true) {
      S3Request request = {.method = "GET",
                           .uri = uri,
                           .action = "list the uploads of",
                           .query = {{"uploads", ""}, {"prefix", uri.key}},
                           .on_bucket = true,
                           .expected_root = "ListMultipartUploadsResult"};
      if (!key_marker.empty()) request.query.emplace_back("key-marker", key_marker);
      if (!id_marker.empty()) request.query.emplace_back("upload-id-marker", id_marker);
      ASSIGN_OR_RETURN(const S3Response response, client_.Call(request, options));
      if (!response.ok()) return client_.ErrorOf(request, response);
      for (const XmlNode& node : response.xml.children) {
        if (node.name == "Upload" && node.Text("Key") == uri.key) {
          ids.emplace_back(node.Text("UploadId"));
        }
      }
      if (response.xml.Text("IsTruncated") != "true") break;
      const std::string next_key(response.xml.Text("NextKeyMarker"));
      const std::string next_id(response.xml.Text("NextUploadIdMarker"));
      if (next_key.empty() || (next_key == key_marker && next_id == id_marker)) {
        return Endless(uri);
      }
      key_marker = next_key;
      id_marker = next_id;
    }
    std::sort(ids.begin(), ids.end());
    return ids;
  }

  absl::StatusOr<std::vector<ListEntry>> List(const Uri& uri, const CallOptions& options) override {
    std::vector<ListEntry> entries;
    const auto take = [&](const XmlNode& node) {
      if (node.name != "Contents") return;
      ListEntry entry{{Uri::Scheme::kS3, uri.bucket, std::string(node.Text("Key"))}, 0};
      (void)absl::SimpleAtoi(node.Text("Size"), &entry.size);
      if (IsNameable(entry.uri)) entries.push_back(std::move(entry));
    };
    RETURN_IF_ERROR(ListPages(uri, FolderPrefix(uri), /*delimiter=*/false, options, take));
    std::sort(entries.begin(), entries.end(),
              [](const ListEntry& a, const ListEntry& b) { return a.uri < b.uri; });
    return entries;
  }

  absl::StatusOr<std::vector<std::string>> ListNames(const Uri& uri, absl::string_view prefix,
                                                     const CallOptions& options) override {
    const std::string folder = FolderPrefix(uri);
    std::vector<std::string> names;
    const auto take = [&](const XmlNode& node) {
      absl::string_view key;
      if (node.name == "Contents") key = node.Text("Key");
      if (node.name == "CommonPrefixes") key = absl::StripSuffix(node.Text("Prefix"), "/");
      if (!absl::ConsumePrefix(&key, folder) || key.empty()) return;
      if (IsNameable(uri.Child(key))) names.emplace_back(key);
    };
    RETURN_IF_ERROR(
        ListPages(uri, absl::StrCat(folder, prefix), /*delimiter=*/true, options, take));
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    return names;
  }

  absl::Status Delete(const Uri& uri, const CallOptions& options) override {
    RETURN_IF_ERROR(CheckObject(uri));
    return Remove({.method = "DELETE", .uri = uri, .action = "remove"}, options);
  }

  absl::Status DeleteFolder(const Uri& uri, const CallOptions& options) override {
    if (uri.key.empty()) {
      return MakeError(Reason::kUsage, absl::StrCat("refusing to remove everything in ",
                                                    uri.ToString(), "; name a folder"));
    }
    std::vector<std::string> keys;  // those that have no Uri, too
    const auto take = [&](const XmlNode& node) {
      if (node.name == "Contents") keys.emplace_back(node.Text("Key"));
    };
    RETURN_IF_ERROR(ListPages(uri, FolderPrefix(uri), /*delimiter=*/false, options, take));
    // The longest first: folder markers ("a/") after what is below them.
    std::sort(keys.rbegin(), keys.rend());
    for (const std::string& key : keys) {
      const S3Request request = {
          .method = "DELETE", .uri = {Uri::Scheme::kS3, uri.bucket, key}, .action = "remove"};
      RETURN_IF_ERROR(Remove(request, options));
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status CheckObject(const Uri& uri) {
    if (uri.scheme != Uri::Scheme::kS3) {
      return MakeError(Reason::kInternal, absl::StrCat(uri.ToString(), " is not on S3"));
    }
    if (!uri.key.empty()) return absl::OkStatus();
    return MakeError(Reason::kUsage,
                     absl::StrCat(uri.ToString(), " names a bucket; give s3://bucket/key"));
  }

  static absl::Status Endless(const Uri& uri) {
    return MakeError(Reason::kStorageUnavailable,
                     absl::StrCat("cannot list ", uri.ToString(),
                                  ": the server does not tell where the next page starts"));
  }

  // The answer to a HEAD has no body that could tell the reason; that to a GET has. For 404 too: it
  // may be the bucket that is missing, or (versitygw) the access key. OK where the GET went through
  // with other keys.
  absl::Status WhyNoHead(const S3Request& head, const S3Response& answer,
                         const CallOptions& options) {
    S3Request get = head;
    get.method = "GET";
    get.headers.emplace_back("range", "bytes=0-0");
    ASSIGN_OR_RETURN(const S3Response response, client_.Call(get, options));
    if (response.ok() && *response.signed_with != *answer.signed_with) return absl::OkStatus();
    return client_.ErrorOf(head, response.ok() ? answer : response);
  }

  absl::StatusOr<bool> IsThere(const Uri& uri, absl::string_view bytes, const Metadata& metadata,
                               const CallOptions& options) {
    ObjectInfo info;
    const absl::StatusOr<std::string> found = ReadObject(*this, uri, bytes.size(), options, &info);
    if (found.ok()) return *found == bytes && info.metadata == metadata;
    switch (ReasonOf(found.status())) {
      case Reason::kInputCorrupt:  // it is larger
      case Reason::kInputChanged:  // somebody else writes to it
      case Reason::kInputNotFound:
        return false;
      default:
        return found.status();
    }
  }

  absl::Status Remove(const S3Request& request, const CallOptions& options) {
    ASSIGN_OR_RETURN(const S3Response response, client_.Call(request, options));
    if (response.ok()) return absl::OkStatus();
    const absl::Status status = client_.ErrorOf(request, response);
    return ReasonOf(status) == Reason::kInputNotFound ? absl::OkStatus() : status;
  }

  // Calls `take` with every element of every page of a listing.
  template <typename Take>
  absl::Status ListPages(const Uri& uri, const std::string& prefix, bool delimiter,
                         const CallOptions& options, Take take) {
    std::string token;
    while (true) {
      S3Request request = {.method = "GET",
                           .uri = uri,
                           .action = "list",
                           .query = {{"list-type", "2"}, {"prefix", prefix}},
                           .on_bucket = true,
                           .expected_root = "ListBucketResult"};
      if (delimiter) request.query.emplace_back("delimiter", "/");
      if (!token.empty()) request.query.emplace_back("continuation-token", token);
      ASSIGN_OR_RETURN(const S3Response response, client_.Call(request, options));
      if (!response.ok()) return client_.ErrorOf(request, response);
      for (const XmlNode& node : response.xml.children) take(node);
      if (response.xml.Text("IsTruncated") != "true") return absl::OkStatus();
      const std::string next(response.xml.Text("NextContinuationToken"));
      if (next.empty() || next == token) return Endless(uri);
      token = next;
    }
  }

  S3Client client_;
};

}  // namespace

std::unique_ptr<ObjectStore> MakeS3Store(const S3Options& options) {
  return std::make_unique<S3Store>(options);
}

}  // namespace orthomerge
