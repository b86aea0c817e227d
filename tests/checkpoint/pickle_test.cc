#include "core/checkpoint/pickle.h"

#include "tests/checkpoint/fixtures.h"
#include "tests/checkpoint/torch_fixtures.h"

namespace orthomerge {
namespace {

using Kind = PickleValue::Kind;
using namespace pickled;  // NOLINT: the pieces of the pickles below

void ExpectFault(const std::string& bytes, Reason reason, const std::vector<std::string>& texts) {
  ExpectError(ParsePickle(bytes).status(), reason, texts);
}

TEST(Pickle, PlainValues) {
  const std::string bytes =
      Whole("(NK\x07M\x01\x02J\xf9\xff\xff\xff\x8a\x06" + LittleEndianBytes(uint64_t{1} << 40, 6) +
            "\x8a" + std::string(1, '\0') + "\x8a\x01\xff\x8a\x09" + std::string(9, '\1') + "G" +
            std::string(8, '\0') + "\x88\x89" + Text("na\xc3\xafve") + "](K\1K\2et");
  const auto pickle = ParsePickle(bytes);
  ASSERT_TRUE(pickle.ok()) << pickle.status();
  const PickleValue& root = *pickle->root;
  ASSERT_EQ(root.kind, Kind::kTuple);
  ASSERT_EQ(root.items.size(), 13u);
  EXPECT_EQ(root.items[0]->kind, Kind::kNone);
  const std::vector<int64_t> numbers = {7, 513, -7, int64_t{1} << 40, 0, -1};
  for (size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(root.items[1 + i]->kind, Kind::kInteger);
    EXPECT_EQ(root.items[1 + i]->number, numbers[i]);
  }
  EXPECT_EQ(root.items[7]->kind, Kind::kOther);  // too long for 64 bits
  EXPECT_EQ(root.items[8]->kind, Kind::kOther);
  EXPECT_EQ(root.items[9]->number, 1);
  EXPECT_EQ(root.items[10]->number, 0);
  EXPECT_EQ(root.items[11]->text, "na\xc3\xafve");
  EXPECT_EQ(root.items[12]->kind, Kind::kList);
  EXPECT_EQ(root.items[12]->items.size(), 2u);
}

TEST(Pickle, MemoSharesValues) {
  const auto pickle = ParsePickle(Whole("(]q\1h\1h\1r" + LittleEndianBytes(0xfffffff0, 4) + "j" +
                                        LittleEndianBytes(0xfffffff0, 4) + "t"));
  ASSERT_TRUE(pickle.ok()) << pickle.status();
  ASSERT_EQ(pickle->root->items.size(), 4u);
  for (const PickleValue* item : pickle->root->items) EXPECT_EQ(item, pickle->root->items[0]);
  EXPECT_EQ(pickle->values.size(), 2u);
}

TEST(Pickle, Protocol4) {
  std::string body = absl::StrCat("\x8c\x05torch\x94\x8c\x0c", "FloatStorage", "\x94\x93\x94h\2t");
  body = "(" + body;
  const auto pickle =
      ParsePickle("\x80\x04\x95" + LittleEndianBytes(body.size() + 1, 8) + body + ".");
  ASSERT_TRUE(pickle.ok()) << pickle.status();
  ASSERT_EQ(pickle->root->items.size(), 2u);
  EXPECT_EQ(pickle->root->items[1]->global->dtype, DType::kF32);
  ExpectFault("\x80\x04\x95" + LittleEndianBytes(5, 8) + "N.", Reason::kInputCorrupt, {"cut"});
}

TEST(Pickle, StateDictWithAttributes) {
  const auto pickle = ParsePickle(
      Whole(OrderedDict() + "(" + Text("a") + "K\1u" + Dict({{"_metadata", OrderedDict()}}) + "b"));
  ASSERT_TRUE(pickle.ok()) << pickle.status();
  ASSERT_EQ(pickle->root->kind, Kind::kDict);
  EXPECT_EQ(pickle->root->items.size(), 2u);
}

TEST(Pickle, NothingIsCalledButWhatMakesTensors) {
  const auto shell = [](const std::string& more) {
    return Whole(Name("os", "system") + Tuple({Text("touch x")}) + more);
  };
  ExpectFault(shell("R"), Reason::kUnsupported, {"'os system'", "not allowed", "byte 2"});
  ExpectFault(Whole(Text("os") + Text("system") + "\x93"), Reason::kUnsupported, {"'os system'"});
  ExpectFault(Whole(Name("torch._utils", "_rebuild_tensor_v2.__globals__")), Reason::kUnsupported,
              {"__globals__"});
  ExpectFault(Whole(Name("torch", "load")), Reason::kUnsupported, {"'torch load'"});
  ExpectFault(Whole(Name("builtins", "exec")), Reason::kUnsupported, {"'builtins exec'"});
  ExpectFault(Whole("c" + std::string(10'000, 'x')), Reason::kInputCorrupt, {"name"});
  ExpectFault(Whole(Name("torch", "FloatStorage") + Tuple({}) + "R"), Reason::kUnsupported,
              {"'torch FloatStorage'"});
  ExpectFault(Whole(Call(Name("collections", "OrderedDict"), {"N"})), Reason::kUnsupported,
              {"OrderedDict"});
  ExpectFault(Whole("K\1" + Tuple({}) + "R"), Reason::kInputCorrupt, {"no function"});
  ExpectFault(Whole(Name("collections", "OrderedDict") + "NR"), Reason::kInputCorrupt,
              {"without arguments"});
  ExpectFault(Whole(Tensor(FloatStorage("0", 1), 0, {1}, {1}) + "}b"), Reason::kUnsupported,
              {"attributes"});
}

TEST(Pickle, RefusesOtherOpcodesByName) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"i", "INST"},          {"o", "OBJ"},      {"\x81", "NEWOBJ"},    {"\x92", "NEWOBJ_EX"},
      {"\x82", "EXT1"},       {"\x83", "EXT2"},  {"\x84", "EXT4"},      {"P", "PERSID"},
      {"2", "DUP"},           {"\x8b", "LONG4"}, {"\x80", "PROTO"},     {"g", "GET"},
      {"\x96", "BYTEARRAY8"}, {"\xff", "0xff"},  {"\x8f", "EMPTY_SET"}, {"S", "STRING"}};
  for (const auto& [opcode, name] : cases) {
    SCOPED_TRACE(name);
    ExpectFault(Whole("N" + opcode), Reason::kUnsupported, {name + ",", "byte 3"});
  }
}

TEST(Pickle, RefusesBrokenPickles) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not a pickle"},
      {"\x80", "not a pickle"},
      {"}.", "not a pickle"},
      {"\x80\x63}.", "protocol 99"},
      {"\x80\x01}.", "protocol 1"},
      {"\x80\x02", "without STOP"},
      {"\x80\x02}", "without STOP"},
      {Whole(""), "left over"},
      {Whole("NN"), "left over"},
      {Whole("N("), "left over"},
      {Whole("N") + "x", "after its end"},
      {Whole("0"), "there is none"},
      {Whole("(0"), "there is none"},
      {Whole("N(0"), "there is none"},
      {Whole("R"), "there is none"},
      {Whole("t"), "there is none"},
      {Whole("N\x86"), "there is none"},
      {Whole("N(N\x86"), "there is none"},
      {Whole("]a"), "there is none"},
      {Whole("](Na"), "there is none"},
      {Whole("]e"), "there is none"},
      {Whole("(Ne"), "there is none"},
      {Whole("q\1"), "there is none"},
      {Whole("b"), "there is none"},
      {Whole("Q"), "there is none"},
      {Whole("}b"), "there is none"},
      {Whole("h\x63"), "never stored"},
      {Whole("K\1(NNu"), "something else than a dictionary"},
      {Whole("}Na"), "something else than a list"},
      {Whole("}(Nu"), "without a value"},
      {Whole("}]Ns"), "key"},
      {Whole(Text("a") + "N\x93"), "no text"},
      {"\x80\x02X" + LittleEndianBytes(0xfffffff0, 4) + "abc", "cut"},
      {"\x80\x04\x8d" + LittleEndianBytes(uint64_t{1} << 62, 8) + "abc", "cut"},
      {"\x80\x02\x8a\xff"
       "abc",
       "cut"},
      {"\x80\x02J\1\2", "cut"},
      {"\x80\x02K", "cut"},
      {Whole(std::string(2000, '(')), "marks"},
  };
  for (const auto& [bytes, text] : cases) {
    SCOPED_TRACE(text);
    ExpectFault(bytes, Reason::kInputCorrupt, {text});
  }
}

TEST(Pickle, IsBoundedInSpace) {
  ExpectFault(Whole(std::string(kMaxPickle, 'N')), Reason::kInputCorrupt, {"at most"});
  ExpectFault(Whole(std::string(2'000'000, 'N')), Reason::kInputCorrupt, {"at once"});
  std::string many = "(";
  for (int i = 0; i < 3'100'000; ++i) many += "N0";
  ExpectFault(Whole(many), Reason::kUnsupported, {"3000000 values"});
}

// Neither recursion in reading nor in freeing.
TEST(Pickle, DeepAndCyclicValues) {
  const auto deep = ParsePickle(Whole(std::string(500'000, ']') + std::string(499'999, 'a')));
  ASSERT_TRUE(deep.ok()) << deep.status();
  EXPECT_EQ(deep->values.size(), 500'000u);
  const auto cycle = ParsePickle(Whole("]q\1h\1a"));
  ASSERT_TRUE(cycle.ok()) << cycle.status();
  EXPECT_EQ(cycle->root->items[0], cycle->root);
}

}  // namespace
}  // namespace orthomerge
