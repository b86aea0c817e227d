#include "core/checkpoint/strided_view.h"

#include <random>

#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

struct Memory {
  std::string file;
  uint64_t largest = 0;  // read
  int reads = 0;

  RangeReader Reader() {
    return [this](uint64_t offset, absl::Span<char> out) {
      ++reads;
      largest = std::max<uint64_t>(largest, out.size());
      if (offset + out.size() > file.size()) return MakeError(Reason::kInternal, "read past end");
      std::memcpy(out.data(), file.data() + offset, out.size());
      return absl::OkStatus();
    };
  }
};

std::string RandomBytes(size_t size, std::mt19937& random) {
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

// Element by element, as the definition of strides says.
std::string Gathered(const std::string& file, uint64_t origin, uint64_t width,
                     const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  std::string bytes;
  std::vector<int64_t> index(shape.size(), 0);
  while (true) {
    int64_t offset = 0;
    for (size_t d = 0; d < shape.size(); ++d) offset += index[d] * strides[d];
    bytes += file.substr(origin + static_cast<uint64_t>(offset) * width, width);
    size_t d = shape.size();
    while (d > 0 && ++index[d - 1] == shape[d - 1]) index[--d] = 0;
    if (d == 0) return bytes;
  }
}

TEST(StridedView, KnowsWhatIsContiguous) {
  const auto contiguous = [](const std::vector<int64_t>& shape,
                             const std::vector<int64_t>& strides) {
    return StridedView::Of(0, 4, shape, strides).contiguous();
  };
  EXPECT_TRUE(contiguous({}, {}));
  EXPECT_TRUE(contiguous({1}, {77}));
  EXPECT_TRUE(contiguous({5}, {1}));
  EXPECT_TRUE(contiguous({3, 4, 5}, {20, 5, 1}));
  EXPECT_TRUE(contiguous({1, 5}, {0, 1}));  // a dimension of 1 may have any stride
  EXPECT_TRUE(contiguous({3, 1, 5}, {5, 9, 1}));
  EXPECT_FALSE(contiguous({5}, {2}));
  EXPECT_FALSE(contiguous({5}, {0}));
  EXPECT_FALSE(contiguous({4, 3}, {1, 4}));
  EXPECT_FALSE(contiguous({3, 4}, {5, 1}));
  EXPECT_FALSE(contiguous({2, 5}, {0, 1}));
}

TEST(StridedView, KnowsWhatIsInOrder) {
  const auto in_order = [](const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
    return StridedView::Of(0, 4, shape, strides).in_order();
  };
  EXPECT_TRUE(in_order({3, 4}, {9, 2}));
  EXPECT_TRUE(in_order({5, 3, 4}, {40, 7, 1}));
  EXPECT_TRUE(in_order({5}, {0}));
  EXPECT_FALSE(in_order({4, 3}, {1, 4}));
  EXPECT_FALSE(in_order({2, 5}, {0, 1}));
  EXPECT_FALSE(in_order({8, 3, 9}, {27, 1, 3}));  // channels last
}

TEST(ReadStrided, GivesTheTensorsBytes) {
  std::mt19937 random(3);
  Memory memory{RandomBytes(3000, random)};
  for (int round = 0; round < 500; ++round) {
    const uint64_t width = uint64_t{1} << (random() % 4);
    const uint64_t origin = random() % 50;
    std::vector<int64_t> shape(random() % 4), strides;
    int64_t last = 0;
    for (int64_t& size : shape) {
      size = 1 + static_cast<int64_t>(random() % 6);
      strides.push_back(static_cast<int64_t>(random() % 12));
      last += (size - 1) * strides.back();
    }
    ASSERT_LE(origin + static_cast<uint64_t>(last + 1) * width, memory.file.size());
    const std::string wanted = Gathered(memory.file, origin, width, shape, strides);
    const StridedView view = StridedView::Of(origin, width, shape, strides);
    const size_t begin = random() % wanted.size();
    std::string bytes(1 + random() % (wanted.size() - begin), '\0');
    ASSERT_TRUE(
        ReadStrided(memory.Reader(), view, begin, absl::MakeSpan(&bytes[0], bytes.size())).ok());
    EXPECT_EQ(bytes, wanted.substr(begin, bytes.size()));
  }
}

TEST(ReadStrided, ReadsInBlocks) {
  std::mt19937 random(4);
  const int64_t rows = 700, columns = 1000;
  Memory memory{RandomBytes(static_cast<size_t>(rows * columns) * 4, random)};
  const std::string wanted = Gathered(memory.file, 0, 4, {columns, rows}, {1, columns});
  const StridedView view = StridedView::Of(0, 4, {columns, rows}, {1, columns});
  std::string bytes(wanted.size(), '\0');
  for (size_t begin = 0; begin < bytes.size(); begin += 500'003) {
    const size_t size = std::min<size_t>(500'003, bytes.size() - begin);
    ASSERT_TRUE(
        ReadStrided(memory.Reader(), view, begin, absl::MakeSpan(&bytes[begin], size)).ok());
  }
  EXPECT_TRUE(bytes == wanted);
  EXPECT_LE(memory.largest, kStridedBlock);
  // Of two elements far apart nothing between them is read.
  memory.reads = 0;
  std::string two(8, '\0');
  ASSERT_TRUE(ReadStrided(memory.Reader(), StridedView::Of(0, 4, {2}, {600'000}), 0,
                          absl::MakeSpan(&two[0], two.size()))
                  .ok());
  EXPECT_EQ(two, memory.file.substr(0, 4) + memory.file.substr(2'400'000, 4));
  EXPECT_EQ(memory.reads, 2);
}

}  // namespace
}  // namespace orthomerge
