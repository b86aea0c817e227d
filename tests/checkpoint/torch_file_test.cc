#include "core/checkpoint/torch_file.h"

#include "core/base/bytes.h"
#include "core/checkpoint/strided_view.h"
#include "tests/checkpoint/fixtures.h"
#include "tests/checkpoint/torch_fixtures.h"

namespace orthomerge {
namespace {

using namespace pickled;  // NOLINT: the pieces of the pickles below

RangeReader ReaderOf(const std::string& file) {
  return [&file](uint64_t offset, absl::Span<char> out) {
    if (offset + out.size() > file.size()) return MakeError(Reason::kInternal, "read past end");
    std::memcpy(out.data(), file.data() + offset, out.size());
    return absl::OkStatus();
  };
}

absl::StatusOr<std::vector<TensorInfo>> Parse(const std::string& file) {
  return ReadTorchFile(ReaderOf(file), file.size());
}

// The bytes of a tensor, read as the engine reads them.
std::string BytesOf(const std::string& file, const TensorInfo& tensor) {
  if (tensor.view == nullptr) return file.substr(tensor.begin, tensor.bytes());
  std::string bytes(tensor.bytes(), '\0');
  EXPECT_TRUE(
      ReadStrided(ReaderOf(file), *tensor.view, 0, absl::MakeSpan(&bytes[0], bytes.size())).ok());
  return bytes;
}

// A file whose storage "0" has these bytes, of this dictionary.
std::string FileOfDict(const std::vector<std::pair<std::string, std::string>>& items,
                       const std::string& storage = "0123456789abcdef") {
  return TorchFile(Whole(Dict(items)), {{"0", storage}});
}

const std::string& Good() {
  static const auto* const tensor =
      new std::string(Tensor(FloatStorage("0", 4), 0, {2, 2}, {2, 1}));
  return *tensor;
}

void ExpectFault(const std::string& file, Reason reason, const std::vector<std::string>& texts) {
  ExpectError(Parse(file).status(), reason, texts);
}

TEST(TorchFile, TensorsOfAPlainDictionary) {
  const std::string file =
      TorchFile(Whole(Dict({{"b", Good()}, {"a", Tensor(FloatStorage("1", 3), 1, {2}, {1})}})),
                {{"0", "0123456789abcdef"}, {"1", "xxxxyyyyzzzz"}});
  const auto tensors = Parse(file);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[1].dtype, DType::kF32);
  EXPECT_EQ((*tensors)[1].shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(BytesOf(file, (*tensors)[0]), "yyyyzzzz");
  EXPECT_EQ(BytesOf(file, (*tensors)[1]), "0123456789abcdef");
  EXPECT_EQ((*tensors)[1].view, nullptr);
}

TEST(TorchFile, EveryDType) {
  const std::vector<std::tuple<std::string, DType, int>> storages = {
      {"DoubleStorage", DType::kF64, 8},    {"HalfStorage", DType::kF16, 2},
      {"BFloat16Storage", DType::kBF16, 2}, {"LongStorage", DType::kI64, 8},
      {"IntStorage", DType::kI32, 4},       {"ShortStorage", DType::kI16, 2},
      {"CharStorage", DType::kI8, 1},       {"ByteStorage", DType::kU8, 1},
      {"BoolStorage", DType::kBool, 1},     {"ComplexFloatStorage", DType::kC64, 8}};
  for (const auto& [name, dtype, width] : storages) {
    SCOPED_TRACE(name);
    const auto tensors = Parse(
        FileOfDict({{"w", Tensor(StorageOf(Name("torch", name), "0", 16 / width), 0, {}, {})}}));
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    EXPECT_EQ((*tensors)[0].dtype, dtype);
    EXPECT_EQ((*tensors)[0].bytes(), static_cast<uint64_t>(width));
  }
  // Newer ones come with storages of bytes.
  const std::string bytes = StorageOf(Name("torch.storage", "UntypedStorage"), "0", 16);
  const auto v3 = [&](const std::string& dtype, const std::string& more = "") {
    return Call(Name("torch._utils", "_rebuild_tensor_v3"),
                {bytes, Int(1), Ints({3}), Ints({1}), "\x89", OrderedDict(), dtype, more});
  };
  for (const auto& [name, dtype] : std::vector<std::pair<std::string, DType>>{
           {"uint16", DType::kU16}, {"float8_e4m3fn", DType::kF8E4M3}, {"uint32", DType::kU32}}) {
    const std::string file = FileOfDict({{"w", v3(Name("torch", name))}});
    const auto tensors = Parse(file);
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    EXPECT_EQ((*tensors)[0].dtype, dtype);
    const auto width = static_cast<size_t>(BitsOf(dtype)) / 8;
    EXPECT_EQ(BytesOf(file, (*tensors)[0]),
              std::string("0123456789abcdef").substr(width, 3 * width));
  }
  ExpectFault(FileOfDict({{"w", v3("N")}}), Reason::kInputCorrupt, {"'w'", "dtype"});
  ExpectFault(FileOfDict({{"w", v3(Name("torch", "FloatStorage"))}}), Reason::kInputCorrupt,
              {"'w'", "dtype"});
  ExpectFault(FileOfDict({{"w", Tensor(bytes, 0, {1}, {1})}}), Reason::kInputCorrupt, {"dtype"});
  ExpectFault(FileOfDict({{"w", v3(Name("torch", "complex128"))}}), Reason::kUnsupported,
              {"complex128"});
  // The values are to be conjugated when they are read.
  ExpectFault(FileOfDict({{"w", v3(Name("torch", "uint8"), Dict({{"conj", "\x88"}}))}}),
              Reason::kUnsupported, {"'w'", "metadata"});
}

TEST(TorchFile, ViewsOfAStorage) {
  const std::vector<std::tuple<int64_t, std::vector<int64_t>, std::vector<int64_t>, std::string>>
      cases = {
          {0,
           {2, 2},
           {1, 2},
           "0123"
           "89ab"
           "4567"
           "cdef"},  // transposed
          {1,
           {2},
           {2},
           "4567"
           "cdef"},  // stepped
          {3,
           {3},
           {0},
           "cdef"
           "cdef"
           "cdef"},  // expanded
          {0,
           {2, 2},
           {0, 1},
           "0123"
           "4567"
           "0123"
           "4567"},  //
          {2,
           {1, 2},
           {9, 1},
           "89ab"
           "cdef"},                       // contiguous
          {2, {}, {}, "89ab"},            //
          {0, {3, 0, 2}, {0, 2, 1}, ""},  // empty
          {9, {0}, {1}, ""},              //
      };
  for (const auto& [offset, shape, strides, wanted] : cases) {
    SCOPED_TRACE(wanted);
    const std::string file =
        FileOfDict({{"w", Tensor(FloatStorage("0", 4), offset, shape, strides)}});
    const auto tensors = Parse(file);
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    EXPECT_EQ((*tensors)[0].shape, shape);
    EXPECT_EQ(BytesOf(file, (*tensors)[0]), wanted);
  }
}

TEST(TorchFile, ParametersAndStateDicts) {
  const std::string parameter =
      Call(Name("torch._utils", "_rebuild_parameter"), {Good(), "\x88", OrderedDict()});
  const auto tensors = Parse(FileOfDict({{"w", parameter}}));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ((*tensors)[0].bytes(), 16u);
  ExpectFault(FileOfDict({{"w", Call(Name("torch._utils", "_rebuild_parameter"),
                                     {parameter, "\x88", OrderedDict()})}}),
              Reason::kInputCorrupt, {"'w'", "parameter"});

  const std::string weights = Dict({{"w", Good()}});
  for (const std::string key : {"state_dict", "model_state_dict", "model", "module"}) {
    const auto nested = Parse(
        FileOfDict({{"epoch", Int(3)}, {key, weights}, {"optimizer", Dict({{"state", weights}})}}));
    ASSERT_TRUE(nested.ok()) << nested.status();
    ASSERT_EQ(nested->size(), 1u);
    EXPECT_EQ((*nested)[0].name, "w");
  }
  // Plain values beside tensors are no weights.
  const auto beside =
      Parse(FileOfDict({{"w", Good()}, {"steps", Int(3)}, {"list", "](K\1K\2e"}, {"none", "N"}}));
  ASSERT_TRUE(beside.ok()) << beside.status();
  EXPECT_EQ(beside->size(), 1u);
}

TEST(TorchFile, RefusesDictionariesThatAreNotClear) {
  const std::string weights = Dict({{"w", Good()}});
  ExpectFault(FileOfDict({{"state_dict", weights}, {"model", weights}}), Reason::kUnsupported,
              {"several models"});
  ExpectFault(FileOfDict({{"w", Good()}, {"ema", weights}}), Reason::kUnsupported, {"'ema'"});
  ExpectFault(FileOfDict({{"w", Good()}, {"x", Dict({{"y", "](" + Good() + "e"}})}}),
              Reason::kUnsupported, {"inside of 'x'"});
  ExpectFault(FileOfDict({{"weights", weights}}), Reason::kInputCorrupt, {"no tensors"});
  ExpectFault(FileOfDict({}), Reason::kInputCorrupt, {"no tensors"});
  ExpectFault(FileOfDict({{"w", Good()}, {"w", Good()}}), Reason::kInputCorrupt, {"'w' twice"});
  ExpectFault(FileOfDict({{"\xff", Good()}}), Reason::kInputCorrupt, {"name"});
  for (const std::string& root :
       {std::string("K\1"), Good(), "](" + Good() + "e", FloatStorage("0", 4)}) {
    ExpectFault(TorchFile(Whole(root), {{"0", std::string(16, 'x')}}), Reason::kInputCorrupt,
                {"no dictionary"});
  }
  ExpectFault(TorchFile(Whole("}K\1" + Good() + "s"), {{"0", std::string(16, 'x')}}),
              Reason::kInputCorrupt, {"name"});
}

TEST(TorchFile, RefusesTensorsThatAreWrong) {
  const std::string storage = FloatStorage("0", 4);
  const int64_t huge = int64_t{1} << 62;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {Tensor(storage, 0, {5}, {1}), "beyond its storage"},
      {Tensor(storage, 4, {1}, {1}), "beyond its storage"},
      {Tensor(storage, 0, {2, 2}, {1000, 1}), "beyond its storage"},
      {Tensor(storage, 0, {2, 2}, {huge, huge}), "beyond its storage"},
      {Tensor(storage, 0, {3, 2, 2}, {int64_t{1} << 61, int64_t{1} << 61, 1}), "beyond its"},
      {Tensor(storage, std::numeric_limits<int64_t>::max(), {1}, {1}), "beyond its storage"},
      {Tensor(storage, 0, {huge, 4}, {0, 0}), "larger than any file"},
      {Tensor(storage, 0, {0, huge, 4}, {0, 0, 0}), "larger than any file"},
      {Tensor(storage, 0, {2}, {1, 1}), "strides"},
      {Tensor(storage, -1, {1}, {1}), "not described"},
      {Tensor(storage, 0, {-1}, {1}), "not described"},
      {Tensor(storage, 0, {2}, {-1}), "not described"},
      {Tensor("N", 0, {2}, {1}), "not described"},
      {Tensor(storage, 0, std::vector<int64_t>(65, 1), std::vector<int64_t>(65, 1)), "64 dim"},
      {Call(Name("torch._utils", "_rebuild_tensor_v2"), {}), "not described"},
      {Call(Name("torch._utils", "_rebuild_parameter"), {"N", "N", "N"}), "without a tensor"},
  };
  for (const auto& [tensor, text] : cases) {
    SCOPED_TRACE(text);
    ExpectFault(FileOfDict({{"w", tensor}}), Reason::kInputCorrupt, {"tensor 'w'", text});
  }
}

TEST(TorchFile, RefusesStoragesThatAreWrong) {
  const std::string type = Name("torch", "FloatStorage");
  const auto id = [](const std::vector<std::string>& items) { return Tuple(items) + "Q"; };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {FloatStorage("1", 4), "'1' is not in the archive"},
      {FloatStorage("../version", 4), "not in the archive"},
      {FloatStorage("0", 5), "should have 5 elements of 4 bytes but has 16"},
      {FloatStorage("0", 3), "but has 16"},
      {FloatStorage("0", -4), "but has 16"},
      {FloatStorage("0", int64_t{1} << 62), "but has 16"},
      {id({Text("storage"), Text("FloatStorage"), Text("0"), Text("cpu"), Int(4)}), "persistent"},
      {id({Text("module"), type, Text("0"), Text("cpu"), Int(4)}), "persistent"},
      {id({Text("storage"), Text("0")}), "persistent"},
      {id({Text("storage"), Name("torch", "float32"), Text("0"), Text("cpu"), Int(4)}),
       "persistent"},
      {"NQ", "persistent"},
  };
  for (const auto& [storage, text] : cases) {
    SCOPED_TRACE(text);
    ExpectFault(FileOfDict({{"w", Tensor(storage, 0, {1}, {1})}}), Reason::kInputCorrupt, {text});
    // Also where no tensor of the model uses it.
    ExpectFault(FileOfDict({{"state_dict", Dict({{"w", Good()}})}, {"other", storage}}),
                Reason::kInputCorrupt, {text});
  }
}

TEST(TorchFile, SharedTensorsAreBounded) {
  ExpectFault(FileOfDict({{"w", Tensor(FloatStorage("0", 4), 0, {1'000'000, 1'000'000}, {0, 0})}}),
              Reason::kInputCorrupt, {"'w' alone 4000000000000", "expanded"});
  std::vector<std::pair<std::string, std::string>> items;
  for (int i = 0; i < 100; ++i) items.emplace_back(absl::StrCat(i), Good());
  EXPECT_TRUE(Parse(FileOfDict(items)).ok());
  // An expanded tensor that makes the whole file small enough again.
  const std::string large(20 * kMiB, 'x');
  const int64_t elements = 5 * kMiB;
  const std::string turned = Tensor(FloatStorage("0", elements), 0, {20, elements}, {0, 1});
  ExpectFault(FileOfDict({{"w", turned}}, large), Reason::kUnsupported, {"'w'", "contiguous()"});
}

TEST(TorchFile, RefusesOtherArchives) {
  const std::string pickle = Whole(Dict({{"w", Good()}}));
  const ZipPart storage = {"a/data/0", std::string(16, 'x')};
  ExpectFault(MakeZip({storage}), Reason::kInputCorrupt, {"no data.pkl"});
  ExpectFault(MakeZip({{"data.pkl", pickle}, storage}), Reason::kInputCorrupt, {"no data.pkl"});
  ExpectFault(MakeZip({{"a/data.pkl", pickle}, storage, {"b/data.pkl", pickle}}),
              Reason::kInputCorrupt, {"two pickles"});
  ExpectFault(MakeZip({{"a/data.pkl", pickle}, storage, {"b/x", ""}}), Reason::kInputCorrupt,
              {"'b/x' lies outside"});
  ExpectFault(MakeZip({{"a/data.pkl", pickle}, storage, {"a/constants.pkl", ""}}),
              Reason::kUnsupported, {"TorchScript"});
  ExpectFault(MakeZip({{"a/data.pkl", pickle}, storage, {"a/byteorder", "big"}}),
              Reason::kUnsupported, {"'big'"});
  ExpectFault(MakeZip({{"a/data.pkl", pickle}, storage, {"a/byteorder", std::string(99, 'x')}}),
              Reason::kInputCorrupt, {"byteorder"});
  std::string damaged = TorchFile(pickle, {{"0", std::string(16, 'x')}});
  damaged[damaged.find("_rebuild")] = 'X';
  ExpectFault(damaged, Reason::kInputCorrupt, {"data.pkl", "checksum"});
}

TEST(TorchFile, RecognisesOtherFiles) {
  const std::string file = FileOfDict({{"w", Good()}});
  ExpectFault("", Reason::kInputCorrupt, {"0 bytes"});
  ExpectFault(file.substr(0, file.size() - 30), Reason::kInputCorrupt, {"complete"});
  ExpectFault("<!DOCTYPE html>", Reason::kInputCorrupt, {"not a torch checkpoint", "HTML"});
  ExpectFault("version https://git-lfs.github.com/spec/v1\n", Reason::kInputCorrupt, {"Git LFS"});
  ExpectFault("\x80\x02}.", Reason::kUnsupported, {"bare pickle"});
  ExpectFault(
      "\x80\x02\x8a\nl\xfc\x9c"
      "F\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
      Reason::kUnsupported, {"before torch 1.6"});
  ExpectFault("GGUF....", Reason::kUnsupported, {"GGUF"});
  ExpectFault(FileWith({{"a", 1}}), Reason::kInputCorrupt, {"not a zip archive"});
  ExpectFault(FileWith({{"a", 1}}) + file, Reason::kInputCorrupt, {"archive contradict"});
}

}  // namespace
}  // namespace orthomerge
