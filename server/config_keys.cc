#include "server/config_keys.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/text.h"
#include "server/address.h"

namespace orthomerge {
namespace {

using Context = ConfigKey::Context;
using Kind = YamlValue::Kind;

void Fault(const Context& context, Reason reason, const YamlValue& value, const std::string& field,
           absl::string_view message) {
  context.diagnostics->Error(reason, std::string(message), field, value.location);
}

absl::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMapping:
      return "a mapping";
    default:
      return "a value";
  }
}

bool IsScalar(const YamlValue& value) {
  return value.kind != Kind::kNull && value.kind != Kind::kList && value.kind != Kind::kMapping;
}

void WrongType(const Context& context, const YamlValue& value, const std::string& field,
               absl::string_view wanted) {
  Fault(context, Reason::kWrongType, value, field,
        absl::StrCat("needs ", wanted, ", not ",
                     IsScalar(value) ? Quote(value.text) : std::string(KindName(value.kind))));
}

// One function per type. Each says what it needs where the value is something else, and leaves the
// target alone then.
struct Reader {
  const YamlValue& value;
  const std::string& field;
  const Context& context;

  bool Text(std::string* target, absl::string_view wanted = "a text") const {
    if (!IsScalar(value)) {
      WrongType(context, value, field, wanted);
      return false;
    }
    *target = value.text;
    return true;
  }

  void Bool(bool* target) const {
    if (value.kind != Kind::kBool) return WrongType(context, value, field, "true or false");
    *target = absl::EqualsIgnoreCase(value.text, "true");
  }

  template <typename T>
  void Number(T* target, T min, T max) const {
    const std::string range = absl::StrCat("a whole number from ", min, " to ", max);
    if (value.kind != Kind::kInteger) return WrongType(context, value, field, range);
    const int64_t number = ParseInteger(value.text).value_or(int64_t{min} - 1);
    if (number < min || number > max) {
      return Fault(context, Reason::kOutOfRange, value, field,
                   absl::StrCat("needs ", range, ", not ", value.text));
    }
    *target = static_cast<T>(number);
  }

  void Bytes(uint64_t* target, uint64_t min, uint64_t max) const {
    const absl::StatusOr<uint64_t> bytes =
        IsScalar(value) ? ParseBytes(value.text)
                        : absl::StatusOr<uint64_t>(absl::OutOfRangeError(""));
    if (!bytes.ok()) return WrongType(context, value, field, "a size such as 2GiB");
    if (*bytes < min || *bytes > max) {
      return Fault(context, Reason::kOutOfRange, value, field,
                   absl::StrCat("needs a size from ", FormatBytes(min), " to ", FormatBytes(max),
                                ", not ", value.text));
    }
    *target = *bytes;
  }

  bool Time(absl::Duration* target, absl::Duration min, absl::Duration max) const {
    absl::Duration duration;
    if (!IsScalar(value) || !absl::ParseDuration(value.text, &duration)) {
      WrongType(context, value, field, "a duration such as 30s, 250ms or 1h30m");
      return false;
    }
    if (duration < min || duration > max) {
      Fault(context, Reason::kOutOfRange, value, field,
            absl::StrCat("needs a duration from ", absl::FormatDuration(min), " to ",
                         absl::FormatDuration(max), ", not ", value.text));
      return false;
    }
    *target = duration;
    return true;
  }

  void Path(std::string* target) const {
    std::string text;
    if (!Text(&text, "a path")) return;
    if (absl::StartsWith(text, "~") && context.home.empty()) {
      return Fault(context, Reason::kUsage, value, field,
                   "the home directory that ~ stands for is unknown; write an absolute path");
    }
    *target = text.empty() ? "" : ResolvePath(text, context.folder, context.home);
  }

  void Address(std::string* target, bool may_be_off) const {
    std::string text;
    if (!Text(&text, "an address")) return;
    if (text.empty() && may_be_off) {
      target->clear();
      return;
    }
    const absl::StatusOr<ListenAddress> address = ListenAddress::Parse(text);
    if (!address.ok()) {
      return Fault(context, Reason::kWrongType, value, field, address.status().message());
    }
    *target = address->ToString();
  }

  // Calls `item` with each text of the list.
  template <typename Item>
  void Texts(std::vector<std::string>* target, absl::string_view wanted, const Item& item) const {
    if (value.kind != Kind::kList) {
      return WrongType(context, value, field, absl::StrCat("a list of ", wanted));
    }
    std::vector<std::string> texts;
    for (size_t i = 0; i < value.items.size(); ++i) {
      const std::string item_field = absl::StrCat(field, "[", i, "]");
      std::string text;
      const Reader reader{value.items[i], item_field, context};
      if (!reader.Text(&text)) continue;
      if (std::optional<std::string> result = item(reader, text)) texts.push_back(*result);
    }
    *target = std::move(texts);
  }

  // Local paths become absolute; s3:// stays.
  void Prefixes(std::vector<std::string>* target) const {
    Texts(target, "paths and s3:// prefixes",
          [this](const Reader& reader, std::string text) -> std::optional<std::string> {
            if (absl::StartsWith(text, "s3://")) {
              if (text.size() > 5 && text[5] != '/') return text;
            } else if (absl::StartsWith(text, "file:///")) {
              return ResolvePath(text.substr(7), context.folder, context.home);
            } else if (!text.empty() && !absl::StrContains(text, "://")) {
              return ResolvePath(text, context.folder, context.home);
            }
            Fault(context, Reason::kWrongType, reader.value, reader.field,
                  absl::StrCat(Quote(text),
                               " is neither a folder nor s3://bucket or s3://bucket/prefix"));
            return std::nullopt;
          });
  }

  void Devices(std::vector<std::string>* target) const {
    Texts(target, "devices",
          [this](const Reader& reader, std::string text) -> std::optional<std::string> {
            int index = 0;
            const bool numbered =
                absl::StartsWith(text, "cuda:") && absl::SimpleAtoi(text.substr(5), &index);
            if (text == "auto" || text == "cpu" || (numbered && index >= 0)) return text;
            Fault(context, Reason::kWrongType, reader.value, reader.field,
                  absl::StrCat(Quote(text), " is no device; write auto, cpu or cuda:N"));
            return std::nullopt;
          });
    if (target->empty()) {
      Fault(context, Reason::kOutOfRange, value, field, "needs at least one device, or auto");
    }
  }

  // True for one of `words`; its index is then in `index`.
  bool Word(const std::vector<std::string>& words, size_t* index) const {
    const auto found = std::find(words.begin(), words.end(), value.text);
    if (!IsScalar(value) || found == words.end()) {
      WrongType(context, value, field, absl::StrCat("one of ", absl::StrJoin(words, ", ")));
      return false;
    }
    *index = static_cast<size_t>(found - words.begin());
    return true;
  }
};

struct ProfileKey {
  const char* name;
  void (*read)(const Reader& reader, S3ProfileConfig* profile);
};

constexpr ProfileKey kProfileKeys[] = {
    {"name", [](const Reader& r, S3ProfileConfig* p) { r.Text(&p->name); }},
    {"buckets",
     [](const Reader& r, S3ProfileConfig* p) {
       r.Texts(&p->buckets, "bucket names",
               [](const Reader&, std::string text) { return std::optional(std::move(text)); });
     }},
    {"endpoint",
     [](const Reader& r, S3ProfileConfig* p) {
       std::string text;
       if (!r.Text(&text, "a URL")) return;
       if (!absl::StartsWith(text, "http://") && !absl::StartsWith(text, "https://")) {
         return WrongType(r.context, r.value, r.field, "a URL such as https://storage.example.com");
       }
       p->endpoint = text;
     }},
    {"region", [](const Reader& r, S3ProfileConfig* p) { r.Text(&p->region); }},
    {"credentials_file", [](const Reader& r, S3ProfileConfig* p) { r.Path(&p->credentials_file); }},
    {"profile", [](const Reader& r, S3ProfileConfig* p) { r.Text(&p->profile); }},
    {"ca_file", [](const Reader& r, S3ProfileConfig* p) { r.Path(&p->ca_file); }},
    {"path_style",
     [](const Reader& r, S3ProfileConfig* p) {
       bool path_style = false;
       r.Bool(&path_style);
       p->path_style = path_style;
     }},
};

void ReadProfile(const Reader& reader, std::vector<S3ProfileConfig>* profiles) {
  const auto& [value, field, context] = reader;
  if (value.kind != Kind::kMapping) return WrongType(context, value, field, "a mapping");
  S3ProfileConfig profile;
  for (const YamlEntry& entry : value.entries) {
    const auto* key = std::find_if(std::begin(kProfileKeys), std::end(kProfileKeys),
                                   [&](const ProfileKey& row) { return entry.key == row.name; });
    const std::string entry_field = absl::StrCat(field, ".", entry.key);
    if (key == std::end(kProfileKeys)) {
      context.diagnostics->Error(
          Reason::kUnknownKey, absl::StrCat("unknown key", DidYouMean(entry.key, S3ProfileKeys())),
          entry_field, entry.key_location);
      continue;
    }
    key->read(Reader{entry.value, entry_field, context}, &profile);
  }
  if (profile.name.empty()) {
    Fault(context, Reason::kMissingKey, value, field, "needs a name");
  } else if (std::any_of(profiles->begin(), profiles->end(),
                         [&](const auto& other) { return other.name == profile.name; })) {
    Fault(context, Reason::kUsage, value, field,
          absl::StrCat("there are two profiles named ", Quote(profile.name)));
  }
  if (profile.buckets.empty()) {
    Fault(context, Reason::kMissingKey, value, field,
          "needs buckets: a list of names, or [\"*\"] for all that no other profile has");
  }
  profiles->push_back(std::move(profile));
}

const std::vector<std::string>& LevelWords() {
  static const auto* const words =
      new std::vector<std::string>{"debug", "info", "warning", "error"};
  return *words;
}

// A row of the table from the member that `get` finds and the function that reads it.
template <typename Get, typename Read>
ConfigKey Row(const char* name, Get get, Read read, ConfigKey::Kind kind) {
  return {
      name, kind,
      [get, read](const YamlValue& value, const std::string& field, const Context& context,
                  ServerConfig* config) { read(Reader{value, field, context}, &get(*config)); }};
}

template <typename Get, typename Read>
ConfigKey Scalar(const char* name, Get get, Read read) {
  return Row(name, get, read, ConfigKey::Kind::kScalar);
}

template <typename Get>
ConfigKey PathRow(const char* name, Get get) {
  return Scalar(name, get, [](const Reader& r, std::string* target) { r.Path(target); });
}

template <typename Get>
ConfigKey BoolRow(const char* name, Get get) {
  return Scalar(name, get, [](const Reader& r, bool* target) { r.Bool(target); });
}

template <typename Get>
ConfigKey AddressRow(const char* name, Get get, bool may_be_off) {
  return Scalar(name, get, [may_be_off](const Reader& r, std::string* target) {
    r.Address(target, may_be_off);
  });
}

template <typename Get>
ConfigKey NumberRow(const char* name, Get get, int64_t min, int64_t max) {
  return Scalar(name, get, [min, max](const Reader& r, auto* target) {
    int64_t number = static_cast<int64_t>(*target);
    r.Number<int64_t>(&number, min, max);
    *target = static_cast<std::remove_pointer_t<decltype(target)>>(number);
  });
}

template <typename Get>
ConfigKey BytesRow(const char* name, Get get, uint64_t min, uint64_t max) {
  return Scalar(name, get,
                [min, max](const Reader& r, uint64_t* target) { r.Bytes(target, min, max); });
}

template <typename Get>
ConfigKey TimeRow(const char* name, Get get, absl::Duration min, absl::Duration max) {
  return Scalar(name, get,
                [min, max](const Reader& r, absl::Duration* target) { r.Time(target, min, max); });
}

void ReadPropagation(const Reader& reader, std::optional<absl::Duration>* target) {
  absl::Duration duration;
  if (IsScalar(reader.value) && reader.value.text == "auto") {
    target->reset();
  } else if (reader.Time(&duration, absl::ZeroDuration(), absl::Minutes(10))) {
    *target = duration;
  }
}

void ReadLevel(const Reader& reader, LogLevel* target) {
  size_t index = 0;
  if (reader.Word(LevelWords(), &index)) *target = *ParseLogLevel(LevelWords()[index]);
}

void ReadFormat(const Reader& reader, std::optional<LogFormat>* target) {
  size_t index = 0;
  if (!reader.Word({"auto", "json", "text"}, &index)) return;
  target->reset();
  if (index == 1) *target = LogFormat::kJson;
  if (index == 2) *target = LogFormat::kText;
}

void ReadProfiles(const Reader& reader, std::vector<S3ProfileConfig>* target) {
  if (reader.value.kind != Kind::kList) {
    return WrongType(reader.context, reader.value, reader.field, "a list of profiles");
  }
  std::vector<S3ProfileConfig> profiles;
  for (size_t i = 0; i < reader.value.items.size(); ++i) {
    const std::string field = absl::StrCat(reader.field, "[", i, "]");
    ReadProfile(Reader{reader.value.items[i], field, reader.context}, &profiles);
  }
  *target = std::move(profiles);
}

std::vector<ConfigKey> MakeKeys() {
  using absl::Hours;
  using absl::Milliseconds;
  using absl::Minutes;
  using absl::Seconds;
  constexpr auto kTexts = ConfigKey::Kind::kTexts;
  const auto prefixes = [](const Reader& r, std::vector<std::string>* t) { r.Prefixes(t); };
  const auto devices = [](const Reader& r, std::vector<std::string>* t) { r.Devices(t); };
  return {
      AddressRow(
          "listen", [](auto& c) -> auto& { return c.listen; }, false),
      BoolRow("insecure", [](auto& c) -> auto& { return c.insecure; }),
      BoolRow("reflection", [](auto& c) -> auto& { return c.reflection; }),
      PathRow("data_dir", [](auto& c) -> auto& { return c.data_dir; }),
      AddressRow(
          "health.listen", [](auto& c) -> auto& { return c.health.listen; }, true),
      AddressRow(
          "metrics.listen", [](auto& c) -> auto& { return c.metrics.listen; }, true),
      PathRow("tls.certificate", [](auto& c) -> auto& { return c.tls.certificate; }),
      PathRow("tls.key", [](auto& c) -> auto& { return c.tls.key; }),
      PathRow("tls.client_ca", [](auto& c) -> auto& { return c.tls.client_ca; }),
      TimeRow(
          "tls.reload_interval", [](auto& c) -> auto& { return c.tls.reload_interval; }, Seconds(1),
          Hours(1)),
      PathRow("authentication.token_file",
              [](auto& c) -> auto& { return c.authentication.token_file; }),
      Row(
          "storage.read", [](auto& c) -> auto& { return c.storage.read; }, prefixes, kTexts),
      Row(
          "storage.write", [](auto& c) -> auto& { return c.storage.write; }, prefixes, kTexts),
      Row(
          "storage.s3", [](auto& c) -> auto& { return c.storage.s3; }, ReadProfiles,
          ConfigKey::Kind::kProfiles),
      BoolRow("inputs.pickle", [](auto& c) -> auto& { return c.inputs.pickle; }),
      PathRow("jobs.database", [](auto& c) -> auto& { return c.jobs.database; }),
      NumberRow(
          "jobs.max_queued", [](auto& c) -> auto& { return c.jobs.max_queued; }, 1, 10'000'000),
      TimeRow(
          "jobs.lease", [](auto& c) -> auto& { return c.jobs.lease; }, Seconds(3), Hours(1)),
      TimeRow(
          "jobs.retry_backoff", [](auto& c) -> auto& { return c.jobs.retry_backoff; },
          Milliseconds(1), Hours(1)),
      NumberRow(
          "jobs.max_worker_losses", [](auto& c) -> auto& { return c.jobs.max_worker_losses; }, 1,
          1000),
      Row(
          "workers.devices", [](auto& c) -> auto& { return c.workers.devices; }, devices, kTexts),
      BytesRow(
          "workers.memory_budget", [](auto& c) -> auto& { return c.workers.memory_budget; },
          16 * kMiB, 1024 * 1024 * kGiB),
      NumberRow(
          "workers.threads", [](auto& c) -> auto& { return c.workers.threads; }, 0, 4096),
      TimeRow(
          "workers.hang_timeout", [](auto& c) -> auto& { return c.workers.hang_timeout; },
          Seconds(1), Hours(24)),
      BytesRow(
          "limits.max_spec_bytes", [](auto& c) -> auto& { return c.limits.max_spec_bytes; },
          1 * kKiB, 900 * kKiB),
      NumberRow(
          "limits.max_models", [](auto& c) -> auto& { return c.limits.max_models; }, 1, 100'000),
      NumberRow(
          "limits.max_watchers", [](auto& c) -> auto& { return c.limits.max_watchers; }, 0,
          1'000'000),
      NumberRow(
          "limits.planners", [](auto& c) -> auto& { return c.limits.planners; }, 1, 256),
      NumberRow(
          "limits.max_planning", [](auto& c) -> auto& { return c.limits.max_planning; }, 1,
          100'000),
      TimeRow(
          "limits.call_deadline", [](auto& c) -> auto& { return c.limits.call_deadline; },
          Seconds(1), Hours(1)),
      TimeRow(
          "limits.stream_age", [](auto& c) -> auto& { return c.limits.stream_age; }, Seconds(1),
          Hours(24)),
      Scalar(
          "drain.propagation", [](auto& c) -> auto& { return c.drain.propagation; },
          ReadPropagation),
      TimeRow(
          "drain.jobs", [](auto& c) -> auto& { return c.drain.jobs; }, absl::ZeroDuration(),
          Hours(24)),
      TimeRow(
          "drain.timeout", [](auto& c) -> auto& { return c.drain.timeout; }, absl::ZeroDuration(),
          Hours(1)),
      Scalar(
          "log.level", [](auto& c) -> auto& { return c.log.level; }, ReadLevel),
      Scalar(
          "log.format", [](auto& c) -> auto& { return c.log.format; }, ReadFormat),
  };
}

}  // namespace

const std::vector<ConfigKey>& ConfigKeys() {
  static const auto* const keys = new std::vector<ConfigKey>(MakeKeys());
  return *keys;
}

std::vector<std::string> S3ProfileKeys() {
  std::vector<std::string> names;
  for (const ProfileKey& key : kProfileKeys) names.push_back(key.name);
  return names;
}

std::string ResolvePath(const std::string& text, const std::string& folder,
                        const std::string& home) {
  std::filesystem::path path = text;
  if (text == "~" || absl::StartsWith(text, "~/")) {
    path = std::filesystem::path(home) / text.substr(text.size() > 1 ? 2 : 1);
  }
  std::string result = (std::filesystem::path(folder) / path).lexically_normal().string();
  while (result.size() > 1 && result.back() == '/') result.pop_back();
  return result;
}

}  // namespace orthomerge
