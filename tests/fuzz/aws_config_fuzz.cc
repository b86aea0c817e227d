// A shared credentials file of any bytes: a fault names file and line and shows nothing of the
// text; what is accepted has whole keys, and reading goes on beside it.

#include "absl/strings/match.h"
#include "core/base/status.h"
#include "core/storage/aws_config.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using orthomerge::AwsFile;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<AwsFile> file = orthomerge::ParseAwsFile(text, "/file");
  if (!file.ok()) {
    FUZZ_CHECK(orthomerge::ReasonOf(file.status()) == orthomerge::Reason::kUsage);
    FUZZ_CHECK(absl::StartsWith(file.status().message(), "/file"));
    FUZZ_CHECK(file.status().message().size() < 120);
    return 0;
  }
  AwsFile as_config = *file;
  for (const auto& [name, section] : file->sections) {
    FUZZ_CHECK(!name.empty());
    for (const auto& [key, value] : section) {
      FUZZ_CHECK(!key.empty() && value.line > 0);
      FUZZ_CHECK(value.value.find('\n') == std::string::npos);
    }
    const auto profile = orthomerge::FindAwsProfile(*file, as_config, name);
    if (!profile.ok()) continue;
    FUZZ_CHECK(profile->found);
    if (!profile->credentials.has_value()) continue;
    FUZZ_CHECK(!profile->credentials->access_key_id.empty());
    FUZZ_CHECK(!profile->credentials->secret_access_key.empty());
  }
  return 0;
}
