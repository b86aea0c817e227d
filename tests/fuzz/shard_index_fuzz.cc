// An index of any bytes: what is accepted names plain files only.

#include "core/checkpoint/shard_index.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto index = orthomerge::ParseShardIndex({reinterpret_cast<const char*>(data), size});
  if (!index.ok()) return 0;
  FUZZ_CHECK(!index->entries.empty());
  for (size_t i = 0; i < index->entries.size(); ++i) {
    FUZZ_CHECK(i == 0 || index->entries[i - 1].tensor < index->entries[i].tensor);
    const int shard = index->entries[i].shard;
    FUZZ_CHECK(shard >= 0 && static_cast<size_t>(shard) < index->shards.size());
  }
  for (size_t i = 0; i < index->shards.size(); ++i) {
    const std::string& name = index->shards[i];
    FUZZ_CHECK(i == 0 || index->shards[i - 1] < name);
    FUZZ_CHECK(name.size() > 12 && name.size() < 256 && name[0] != '.');
    FUZZ_CHECK(name.find_first_of("/\\:") == std::string::npos);
    for (const char c : name) FUZZ_CHECK(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  }
  return 0;
}
