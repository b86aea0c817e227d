// Rows read in another order, and how few reads that takes.
#include "core/engine/row_map.h"

#include <random>

#include "core/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

class RowMapTest : public testing::Test {
 protected:
  RowMapTest() : bytes_(static_cast<size_t>(kRows) * kRowBytes, '\0') {
    std::mt19937 random(3);
    for (char& c : bytes_) c = static_cast<char>(random());
  }

  std::string Read(const RowMap& map, uint64_t begin, uint64_t size, uint64_t gap = 0) {
    std::string out(size, '\0');
    reads_ = 0;
    const auto read = [this](uint64_t from, absl::Span<char> to) {
      ++reads_;
      EXPECT_LE(from + to.size(), bytes_.size());
      std::copy_n(bytes_.data() + from, to.size(), to.data());
      return absl::OkStatus();
    };
    EXPECT_TRUE(ReadRows(read, map, kRowBytes, gap, begin, absl::MakeSpan(out)).ok());
    return out;
  }

  // The same, one byte at a time.
  std::string Expected(const RowMap& map, uint64_t begin, uint64_t size) const {
    std::string out;
    for (uint64_t i = begin; i < begin + size; ++i) {
      const int32_t row = map[i / kRowBytes];
      out += row < 0 ? '\0' : bytes_[static_cast<size_t>(row) * kRowBytes + i % kRowBytes];
    }
    return out;
  }

  static constexpr int kRows = 40;
  static constexpr uint64_t kRowBytes = 24;
  std::string bytes_;
  int reads_ = 0;
};

TEST_F(RowMapTest, ReadsAnyRangeOfAnyMap) {
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    RowMap map(1 + random() % 60);
    for (int32_t& row : map) row = static_cast<int32_t>(random() % (kRows + 10)) - 10;
    for (int32_t& row : map) row = std::max(row, -1);
    const uint64_t all = map.size() * kRowBytes, begin = random() % all;
    const uint64_t size = 1 + random() % (all - begin), gap = random() % 3 * 30;
    EXPECT_EQ(Read(map, begin, size, gap), Expected(map, begin, size));
  }
}

TEST_F(RowMapTest, NeighboursTakeOneRead) {
  RowMap map = {5, 6, 7, 8, -1, 9};
  EXPECT_EQ(Read(map, 12, 4 * kRowBytes), Expected(map, 12, 4 * kRowBytes));
  EXPECT_EQ(reads_, 1);
  // In the wrong order, too, and with a row between them that is not wanted.
  map = {9, 8, 6};
  EXPECT_EQ(Read(map, 0, 3 * kRowBytes), Expected(map, 0, 3 * kRowBytes));
  EXPECT_EQ(reads_, 2);
  EXPECT_EQ(Read(map, 0, 3 * kRowBytes, kRowBytes), Expected(map, 0, 3 * kRowBytes));
  EXPECT_EQ(reads_, 1);
  map = {-1, -1};
  Read(map, 0, 2 * kRowBytes);
  EXPECT_EQ(reads_, 0);
}

TEST_F(RowMapTest, PassesOnErrors) {
  std::string out(kRowBytes, '\0');
  const auto fails = [](uint64_t, absl::Span<char>) {
    return MakeError(Reason::kStorageUnavailable, "gone");
  };
  EXPECT_EQ(ReasonOf(ReadRows(fails, {3}, kRowBytes, 0, 0, absl::MakeSpan(out))),
            Reason::kStorageUnavailable);
}

}  // namespace
}  // namespace orthomerge
