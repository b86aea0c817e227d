#include "core/checkpoint/zip_directory.h"

#include <cstring>

#include "core/base/bytes.h"
#include "core/base/mutex.h"
#include "tests/checkpoint/fixtures.h"
#include "tests/checkpoint/torch_fixtures.h"

namespace orthomerge {
namespace {

RangeReader ReaderOf(const std::string& file, int* reads = nullptr) {
  return [&file, reads](uint64_t offset, absl::Span<char> out) {
    if (reads != nullptr) ++*reads;
    if (offset + out.size() > file.size()) return MakeError(Reason::kInternal, "read past end");
    std::memcpy(out.data(), file.data() + offset, out.size());
    return absl::OkStatus();
  };
}

absl::StatusOr<ZipDirectory> Parse(const std::string& file) {
  return ReadZipDirectory(ReaderOf(file), file.size());
}

const std::vector<ZipPart> kParts = {
    {"a/data.pkl", "pickle"}, {"a/data/0", "01234567"}, {"a/empty", ""}};

// The archive with `bytes` at the place of the `nth` `mark`, moved by `offset`.
std::string Changed(std::string file, const std::string& mark, int nth, size_t offset,
                    const std::string& bytes) {
  size_t at = file.find(mark);
  for (; nth > 0; --nth) at = file.find(mark, at + 1);
  return file.replace(at + offset, bytes.size(), bytes);
}

constexpr char kLocal[] = "PK\3\4", kEntry[] = "PK\1\2", kEnd[] = "PK\5\6";

TEST(ZipDirectory, FindsTheDataInArchivesOfEveryStyle) {
  for (const bool sizes_behind : {false, true}) {
    for (const bool end64 : {false, true}) {
      for (const bool wide : {false, true}) {
        for (const uint64_t alignment : {1, 64, 4096}) {
          const std::string file = MakeZip(kParts, {alignment, sizes_behind, end64, wide, ""});
          const auto zip = Parse(file);
          ASSERT_TRUE(zip.ok()) << zip.status();
          ASSERT_EQ(zip->entries.size(), 3u);
          for (const ZipPart& part : kParts) {
            const ZipEntry* const entry = zip->Find(part.name);
            ASSERT_NE(entry, nullptr);
            EXPECT_EQ(file.substr(entry->begin, entry->bytes()), part.data);
            EXPECT_EQ(ReadZipEntry(ReaderOf(file), *entry, 8).value(), part.data);
          }
          EXPECT_EQ(zip->Find("data.pkl"), nullptr);
        }
      }
    }
  }
}

TEST(ZipDirectory, ReadsNoData) {
  std::vector<ZipPart> parts = {{"a/data.pkl", "pickle"}};
  for (int i = 0; i < 40; ++i) {
    parts.push_back({absl::StrCat("a/data/", i), std::string(i % 2 == 0 ? 100'000 : 40, 'x')});
  }
  const std::string file = MakeZip(parts);
  uint64_t bytes = 0;
  int reads = 0;
  const RangeReader inner = ReaderOf(file);
  Mutex mutex;
  const auto zip = ReadZipDirectory(
      [&](uint64_t offset, absl::Span<char> out) {
        const MutexLock lock(&mutex);
        ++reads;
        bytes += out.size();
        return inner(offset, out);
      },
      file.size());
  ASSERT_TRUE(zip.ok()) << zip.status();
  EXPECT_LE(reads, 1 + 21);  // the end, and the headers around each large entry
  EXPECT_LE(bytes, 64 * kKiB + 40 * 400);
}

TEST(ZipDirectory, RefusesWhatMayBeReadInTwoWays) {
  const std::string file = MakeZip(kParts);
  const std::string file64 = MakeZip(kParts, {.end64 = true});
  const auto le = LittleEndianBytes;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not a zip archive"},
      {"PK", "not a zip archive"},
      {file.substr(0, file.size() - 1), "not a zip archive"},
      {file + "x", "not a zip archive"},
      {Changed(file, kEnd, 0, 20, le(1, 2)) + "x", "not a zip archive"},  // a comment
      {Changed(file, kEnd, 0, 4, le(1, 2)), "volumes"},
      {Changed(file, kEnd, 0, 8, le(2, 2)), "volumes"},
      {Changed(file, kEnd, 0, 8, le(4, 2) + le(4, 2)), "cut"},
      {Changed(file, kEnd, 0, 8, le(2, 2) + le(2, 2)), "longer"},
      {Changed(file, kEnd, 0, 8, le(65534, 2) + le(65534, 2)), "announces 65534"},
      {Changed(file, kEnd, 0, 12, le(1, 4)), "directory should be"},
      {Changed(file, kEnd, 0, 12, le(0xfffffff0, 4)), "directory should be"},
      {Changed(file64, "PK\6\6", 0, 4, le(45, 8)), "contradict"},
      {Changed(file64, "PK\6\6", 0, 0, "PK\6\5"), "contradict"},
      {Changed(file64, "PK\6\6", 0, 40, le(uint64_t{1} << 63, 8)), "directory should be"},
      {Changed(file64, "PK\6\6", 0, 24, le(uint64_t{1} << 62, 8) + le(uint64_t{1} << 62, 8)),
       "announces 4611686018427387904"},
      {Changed(file64, "PK\6\7", 0, 8, le(0, 8)), "contradict"},
      {Changed(file64, kEnd, 0, 10, le(1, 2)), "contradict"},
      {Changed(file, kEntry, 1, 0, "PK\1\3"), "cut"},
      {Changed(file, kEntry, 2, 28, le(60000, 2)), "cut"},
      {Changed(file, kEntry, 1, 8, le(1, 2)), "'a/data/0' is encrypted"},
      {Changed(file, kLocal, 1, 6, le(1, 2)), "'a/data/0' is encrypted"},
      {Changed(file, kEntry, 1, 8, le(0x2000, 2)), "unknown flags"},
      {Changed(file, kEntry, 1, 20, le(7, 4)), "two sizes"},
      {Changed(file, kEntry, 1, 24, le(9, 4)), "two sizes"},
      {Changed(file, kEntry, 1, 20, le(1'000'000, 4) + le(1'000'000, 4)), "inside the file"},
      {Changed(file, kEntry, 1, 20, le(9, 4) + le(9, 4)), "own header"},
      {Changed(file, kEntry, 1, 34, le(1, 2)), "volume"},
      {Changed(file, kEntry, 1, 42, le(0x40000000, 4)), "inside the file"},
      {Changed(file, kEntry, 1, 42, le(1, 4)), "no header"},
      {Changed(file, kEntry, 1, 42, le(0, 4)), "another name"},
      {Changed(file, kEntry, 1, 16, le(1, 4)), "own header"},
      {Changed(file, kLocal, 1, 18, le(3, 4)), "own header"},
      {Changed(file, kLocal, 2, 28, le(60000, 2)), "inside the file"},
      {Changed(file, kLocal, 1, 30, "a/data/1"), "another name"},
      {MakeZip({kParts[0], kParts[1], kParts[0]}), "two entries 'a/data.pkl'"},
      {MakeZip(kParts, {.before = "front"}), "before the archive's first entry"},
  };
  for (const auto& [bytes, text] : cases) {
    SCOPED_TRACE(text);
    ExpectError(Parse(bytes).status(), Reason::kInputCorrupt, {text});
  }
  std::vector<ZipPart> compressed = kParts;
  compressed[1].method = 8;
  ExpectError(Parse(MakeZip(compressed)).status(), Reason::kUnsupported,
              {"'a/data/0' is compressed", "convert"});
}

TEST(ZipDirectory, RefusesOverlap) {
  // The first entry's data reach over the header of the second.
  std::string file =
      MakeZip({{"a", "0123456789"}, {"b", ""}, {"c", std::string(200, 'x')}}, {.alignment = 1});
  const auto le = LittleEndianBytes;
  file = Changed(file, kEntry, 0, 20, le(50, 4) + le(50, 4));
  file = Changed(file, kLocal, 0, 18, le(50, 4) + le(50, 4));
  ExpectError(Parse(file).status(), Reason::kInputCorrupt, {"'a' and 'b' overlap"});
}

TEST(ZipDirectory, ADirectoryThatIsTooLarge) {
  const uint64_t size = 100 * kMiB;
  std::string end =
      absl::StrCat("PK\5\6", std::string(4, '\0'), LittleEndianBytes(9, 2), LittleEndianBytes(9, 2),
                   LittleEndianBytes(size, 4), LittleEndianBytes(0, 4), LittleEndianBytes(0, 2));
  uint64_t asked = 0;
  const auto zip = ReadZipDirectory(
      [&](uint64_t, absl::Span<char> out) {
        asked += out.size();
        std::memcpy(out.data() + out.size() - end.size(), end.data(), end.size());
        return absl::OkStatus();
      },
      size + end.size());
  ExpectError(zip.status(), Reason::kInputCorrupt, {"at most"});
  EXPECT_LE(asked, 64 * kKiB);
}

TEST(ZipDirectory, EntriesAreHeldAgainstTheirChecksums) {
  std::string file = MakeZip(kParts);
  const auto zip = Parse(file);
  ASSERT_TRUE(zip.ok());
  const ZipEntry& pickle = *zip->Find("a/data.pkl");
  file[pickle.begin] = 'P';
  ExpectError(ReadZipEntry(ReaderOf(file), pickle, 100).status(), Reason::kInputCorrupt,
              {"'a/data.pkl'", "checksum"});
  ExpectError(ReadZipEntry(ReaderOf(file), pickle, 5).status(), Reason::kInputCorrupt,
              {"6 bytes", "at most 5"});
}

// As torch writes them: sizes behind the data, 64-bit values only where they are needed.
TEST(ZipDirectory, EntriesBeyond4GiB) {
  const auto le = LittleEndianBytes;
  const uint64_t large = 5 * kGiB, ones = 0xffffffff, flags = 0x808;
  const auto local = [&](const std::string& name) {
    return absl::StrCat("PK\3\4", le(0, 2), le(flags, 2), le(0, 6), le(0, 4), le(0, 4), le(0, 4),
                        le(name.size(), 2), le(0, 2), name);
  };
  const auto listed = [&](const std::string& name, uint64_t size, uint64_t offset,
                          const std::string& wide) {
    return absl::StrCat("PK\1\2", le(0, 4), le(flags, 2), le(0, 6),
                        le(Crc32Of(name == "a/data.pkl" ? "pickle" : ""), 4), le(size, 4),
                        le(size, 4), le(name.size(), 2), le(wide.size() + 4, 2)) +
           absl::StrCat(le(0, 10), le(offset, 4), name, le(1, 2), le(wide.size(), 2), wide);
  };
  const std::string head = local("a/data/0");
  const uint64_t second = head.size() + large;
  std::string rest = local("a/data.pkl") + "pickle";
  const uint64_t directory = second + rest.size();
  const std::string entries = listed("a/data/0", ones, 0, le(large, 8) + le(large, 8)) +
                              listed("a/data.pkl", 6, ones, le(second, 8));
  rest += absl::StrCat(entries, "PK\6\6", le(44, 8), le(0, 12), le(2, 8), le(2, 8),
                       le(entries.size(), 8), le(directory, 8));
  rest += absl::StrCat("PK\6\7", le(0, 4), le(directory + entries.size(), 8), le(1, 4));
  rest += absl::StrCat("PK\5\6", le(0, 4), le(2, 2), le(2, 2), le(entries.size(), 4), le(ones, 4),
                       le(0, 2));
  const RangeReader read = [&](uint64_t offset, absl::Span<char> out) {
    for (size_t i = 0; i < out.size(); ++i) {
      const uint64_t at = offset + i;
      out[i] = at < head.size() ? head[at] : at >= second ? rest.at(at - second) : '\0';
    }
    return absl::OkStatus();
  };
  const auto zip = ReadZipDirectory(read, second + rest.size());
  ASSERT_TRUE(zip.ok()) << zip.status();
  EXPECT_EQ(zip->Find("a/data/0")->bytes(), large);
  EXPECT_EQ(zip->Find("a/data/0")->begin, head.size());
  EXPECT_EQ(ReadZipEntry(read, *zip->Find("a/data.pkl"), 100).value(), "pickle");
}

TEST(ZipDirectory, StorageErrorsAreKept) {
  const std::string file = MakeZip(kParts);
  for (int fail = 0; fail < 2; ++fail) {
    int reads = 0;
    const auto zip = ReadZipDirectory(
        [&](uint64_t offset, absl::Span<char> out) {
          if (reads++ == fail) return MakeError(Reason::kStorageUnavailable, "no answer");
          return ReaderOf(file)(offset, out);
        },
        file.size());
    ExpectError(zip.status(), Reason::kStorageUnavailable, {"no answer"});
  }
}

}  // namespace
}  // namespace orthomerge
