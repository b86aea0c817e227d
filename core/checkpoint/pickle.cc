#include "core/checkpoint/pickle.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status.h"
#include "core/checkpoint/json_events.h"

namespace orthomerge {
namespace {

using Kind = PickleValue::Kind;
using Role = PickleGlobal::Role;

constexpr size_t kMaxValues = 3'000'000;
constexpr size_t kMaxStack = 1'000'000;
constexpr size_t kMaxMemo = 2'000'000;
constexpr size_t kMaxMarks = 1000;
constexpr size_t kMaxName = 256;

constexpr PickleGlobal kGlobals[] = {
    {"collections OrderedDict", Role::kOrderedDict},
    {"torch Size", Role::kSize},
    {"torch device", Role::kDevice},
    {"torch._utils _rebuild_tensor_v2", Role::kTensorV2},
    {"torch._utils _rebuild_tensor_v3", Role::kTensorV3},
    {"torch._utils _rebuild_parameter", Role::kParameter},
    {"torch._utils _rebuild_parameter_with_state", Role::kParameterWithState},
    {"torch.storage UntypedStorage", Role::kStorage},
    {"torch UntypedStorage", Role::kStorage},
    {"torch DoubleStorage", Role::kStorage, DType::kF64},
    {"torch FloatStorage", Role::kStorage, DType::kF32},
    {"torch HalfStorage", Role::kStorage, DType::kF16},
    {"torch BFloat16Storage", Role::kStorage, DType::kBF16},
    {"torch LongStorage", Role::kStorage, DType::kI64},
    {"torch IntStorage", Role::kStorage, DType::kI32},
    {"torch ShortStorage", Role::kStorage, DType::kI16},
    {"torch CharStorage", Role::kStorage, DType::kI8},
    {"torch ByteStorage", Role::kStorage, DType::kU8},
    {"torch BoolStorage", Role::kStorage, DType::kBool},
    {"torch ComplexFloatStorage", Role::kStorage, DType::kC64},
    {"torch float64", Role::kDType, DType::kF64},
    {"torch float32", Role::kDType, DType::kF32},
    {"torch float16", Role::kDType, DType::kF16},
    {"torch bfloat16", Role::kDType, DType::kBF16},
    {"torch int64", Role::kDType, DType::kI64},
    {"torch int32", Role::kDType, DType::kI32},
    {"torch int16", Role::kDType, DType::kI16},
    {"torch int8", Role::kDType, DType::kI8},
    {"torch uint64", Role::kDType, DType::kU64},
    {"torch uint32", Role::kDType, DType::kU32},
    {"torch uint16", Role::kDType, DType::kU16},
    {"torch uint8", Role::kDType, DType::kU8},
    {"torch bool", Role::kDType, DType::kBool},
    {"torch complex64", Role::kDType, DType::kC64},
    {"torch float8_e4m3fn", Role::kDType, DType::kF8E4M3},
    {"torch float8_e5m2", Role::kDType, DType::kF8E5M2},
    {"torch float8_e4m3fnuz", Role::kDType, DType::kF8E4M3FNUZ},
    {"torch float8_e5m2fnuz", Role::kDType, DType::kF8E5M2FNUZ},
    {"torch float8_e8m0fnu", Role::kDType, DType::kF8E8M0},
};

enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinUnicode = 'X',
  kEmptyList = ']',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kEmptyTuple = ')',
  kProto = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

// Of opcodes that are refused, as pickletools has them.
std::string NameOf(uint8_t opcode) {
  static constexpr std::pair<uint8_t, absl::string_view> kNames[] = {{'1', "POP_MARK"},
                                                                     {'2', "DUP"},
                                                                     {'B', "BINBYTES"},
                                                                     {'C', "SHORT_BINBYTES"},
                                                                     {'F', "FLOAT"},
                                                                     {'I', "INT"},
                                                                     {'L', "LONG"},
                                                                     {'P', "PERSID"},
                                                                     {'S', "STRING"},
                                                                     {'T', "BINSTRING"},
                                                                     {'U', "SHORT_BINSTRING"},
                                                                     {'V', "UNICODE"},
                                                                     {'d', "DICT"},
                                                                     {'g', "GET"},
                                                                     {'i', "INST"},
                                                                     {'l', "LIST"},
                                                                     {'o', "OBJ"},
                                                                     {'p', "PUT"},
                                                                     {0x80, "PROTO"},
                                                                     {0x81, "NEWOBJ"},
                                                                     {0x82, "EXT1"},
                                                                     {0x83, "EXT2"},
                                                                     {0x84, "EXT4"},
                                                                     {0x8b, "LONG4"},
                                                                     {0x8e, "BINBYTES8"},
                                                                     {0x8f, "EMPTY_SET"},
                                                                     {0x90, "ADDITEMS"},
                                                                     {0x91, "FROZENSET"},
                                                                     {0x92, "NEWOBJ_EX"},
                                                                     {0x96, "BYTEARRAY8"},
                                                                     {0x97, "NEXT_BUFFER"},
                                                                     {0x98, "READONLY_BUFFER"}};
  for (const auto& [code, name] : kNames) {
    if (code == opcode) return std::string(name);
  }
  return absl::StrFormat("0x%02x", opcode);
}

class Machine {
 public:
  explicit Machine(absl::string_view bytes) : bytes_(bytes) {}

  absl::StatusOr<Pickle> Run() {
    if (bytes_.size() > kMaxPickle) {
      return Fault(
          absl::StrCat("has ", bytes_.size(), " bytes; at most ", kMaxPickle, " are read"));
    }
    if (bytes_.size() < 2 || static_cast<uint8_t>(bytes_[0]) != kProto) {
      return Fault("is not a pickle of protocol 2 or later");
    }
    if (bytes_[1] < 2 || bytes_[1] > 5) {
      return Fault(absl::StrCat("has the unknown protocol ", static_cast<uint8_t>(bytes_[1])));
    }
    at_ = 2;
    while (!stopped_) {
      begin_ = at_;
      if (at_ == bytes_.size()) return Fault("ends without STOP");
      RETURN_IF_ERROR(Step(static_cast<uint8_t>(bytes_[at_++])));
    }
    if (stack_.size() != 1 || !marks_.empty()) return Fault("stops with values left over");
    if (at_ != bytes_.size()) return Fault("goes on after its end");
    pickle_.root = stack_[0];
    return std::move(pickle_);
  }

 private:
  absl::Status Fault(absl::string_view what, Reason reason = Reason::kInputCorrupt) const {
    return MakeError(reason, absl::StrCat("the pickle ", what, " (at byte ", begin_, ")"));
  }

  absl::Status Step(uint8_t opcode) {
    switch (opcode) {
      case kMark:
        if (marks_.size() == kMaxMarks) return Fault("has too many open marks");
        marks_.push_back(stack_.size());
        return absl::OkStatus();
      case kStop:
        stopped_ = true;
        return absl::OkStatus();
      case kPop:
        return Pop().status();
      case kFrame: {
        ASSIGN_OR_RETURN(const uint64_t size, Number(8));
        return size <= bytes_.size() - at_ ? absl::OkStatus() : Fault("is cut");
      }
      case kEmptyTuple:
        return Push(Kind::kTuple);
      case kEmptyList:
        return Push(Kind::kList);
      case kEmptyDict:
        return Push(Kind::kDict);
      case kTuple:
        return PushTuple(TopGroup());
      case kTuple1:
      case kTuple2:
      case kTuple3:
        return PushTuple(opcode - kTuple1 + 1);
      case kAppend:
        return Fill(Kind::kList, 1);
      case kAppends:
        return Fill(Kind::kList, TopGroup());
      case kSetItem:
        return Fill(Kind::kDict, 2);
      case kSetItems:
        return Fill(Kind::kDict, TopGroup());
      case kBinPut:
      case kLongBinPut: {
        ASSIGN_OR_RETURN(const uint64_t index, Number(opcode == kBinPut ? 1 : 4));
        return Store(index);
      }
      case kMemoize:
        return Store(memo_.size());
      case kBinGet:
      case kLongBinGet: {
        ASSIGN_OR_RETURN(const uint64_t index, Number(opcode == kBinGet ? 1 : 4));
        const auto found = memo_.find(index);
        if (found == memo_.end()) return Fault("refers to a value that it never stored");
        return PushOld(found->second);
      }
      case kGlobal:
        return PushGlobalOfLines();
      case kStackGlobal:
        return PushGlobalOfStack();
      case kBinPersId:
        return Wrap(Kind::kStorage, nullptr);
      case kReduce:
        return Reduce();
      case kBuild:
        return Build();
      default:
        return StepScalar(opcode);
    }
  }

  absl::Status StepScalar(uint8_t opcode) {
    switch (opcode) {
      case kNone:
        return Push(Kind::kNone);
      case kNewTrue:
      case kNewFalse:
        return Push(Kind::kBool, opcode == kNewTrue);
      case kBinInt1:
      case kBinInt2: {
        ASSIGN_OR_RETURN(const uint64_t number, Number(opcode == kBinInt1 ? 1 : 2));
        return Push(Kind::kInteger, static_cast<int64_t>(number));
      }
      case kBinInt: {
        ASSIGN_OR_RETURN(const uint64_t number, Number(4));
        return Push(Kind::kInteger, static_cast<int32_t>(static_cast<uint32_t>(number)));
      }
      case kLong1:
        return PushLong();
      case kBinFloat:
        RETURN_IF_ERROR(Take(8).status());
        return Push(Kind::kOther);
      case kShortBinUnicode:
        return PushText(1);
      case kBinUnicode:
        return PushText(4);
      case kBinUnicode8:
        return PushText(8);
      default:
        return Fault(absl::StrCat("uses the opcode ", NameOf(opcode), ", which is not allowed"),
                     Reason::kUnsupported);
    }
  }

  absl::StatusOr<absl::string_view> Take(uint64_t size) {
    if (size > bytes_.size() - at_) return Fault("is cut");
    const absl::string_view taken = bytes_.substr(at_, size);
    at_ += size;
    return taken;
  }

  absl::StatusOr<uint64_t> Number(uint64_t size) {  // little-endian
    ASSIGN_OR_RETURN(const absl::string_view taken, Take(size));
    uint64_t number = 0;
    for (size_t i = size; i-- > 0;) number = number << 8 | static_cast<uint8_t>(taken[i]);
    return number;
  }

  absl::Status PushOld(PickleValue* value) {
    if (stack_.size() == kMaxStack) return Fault("holds too many values at once");
    stack_.push_back(value);
    return absl::OkStatus();
  }

  absl::StatusOr<PickleValue*> New(Kind kind) {
    if (pickle_.values.size() == kMaxValues) {
      return Fault(absl::StrCat("has more than ", kMaxValues, " values"), Reason::kUnsupported);
    }
    pickle_.values.emplace_back().kind = kind;
    PickleValue* const value = &pickle_.values.back();
    RETURN_IF_ERROR(PushOld(value));
    return value;
  }

  absl::Status Push(Kind kind, int64_t number = 0) {
    ASSIGN_OR_RETURN(PickleValue* const value, New(kind));
    value->number = number;
    return absl::OkStatus();
  }

  absl::Status PushLong() {  // two's complement of any length
    ASSIGN_OR_RETURN(const uint64_t size, Number(1));
    ASSIGN_OR_RETURN(const absl::string_view taken, Take(size));
    if (size > 8) return Push(Kind::kOther);
    uint64_t number = !taken.empty() && (taken.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
    for (size_t i = size; i-- > 0;) number = number << 8 | static_cast<uint8_t>(taken[i]);
    return Push(Kind::kInteger, static_cast<int64_t>(number));
  }

  absl::Status PushText(uint64_t length_bytes) {
    ASSIGN_OR_RETURN(const uint64_t size, Number(length_bytes));
    ASSIGN_OR_RETURN(const absl::string_view text, Take(size));
    ASSIGN_OR_RETURN(PickleValue* const value, New(Kind::kText));
    value->text = text;
    return absl::OkStatus();
  }

  size_t Floor() const { return marks_.empty() ? 0 : marks_.back(); }

  absl::StatusOr<PickleValue*> Pop() {
    if (stack_.size() <= Floor()) return Fault("takes a value where there is none");
    PickleValue* const value = stack_.back();
    stack_.pop_back();
    return value;
  }

  // Ends the group of the last mark; nothing where there is no mark.
  std::optional<size_t> TopGroup() {
    if (marks_.empty()) return std::nullopt;
    const size_t size = stack_.size() - marks_.back();
    marks_.pop_back();
    return size;
  }

  // Moves the last `count` values behind those of `target`.
  absl::Status MoveTo(std::vector<const PickleValue*>* target, std::optional<size_t> count) {
    if (!count.has_value() || *count > stack_.size() - Floor()) {
      return Fault("takes a value where there is none");
    }
    target->insert(target->end(), stack_.end() - static_cast<ptrdiff_t>(*count), stack_.end());
    stack_.resize(stack_.size() - *count);
    return absl::OkStatus();
  }

  absl::Status PushTuple(std::optional<size_t> count) {
    std::vector<const PickleValue*> items;
    RETURN_IF_ERROR(MoveTo(&items, count));
    ASSIGN_OR_RETURN(PickleValue* const tuple, New(Kind::kTuple));
    tuple->items = std::move(items);
    return absl::OkStatus();
  }

  // Puts the last `count` values into the list or dictionary below them.
  absl::Status Fill(Kind kind, std::optional<size_t> count) {
    if (!count.has_value() || stack_.size() - Floor() <= *count) {
      return Fault("takes a value where there is none");
    }
    PickleValue* const target = stack_[stack_.size() - 1 - *count];
    if (target->kind != kind) {
      return Fault(kind == Kind::kList ? "adds items to something else than a list"
                                       : "sets items of something else than a dictionary");
    }
    if (kind == Kind::kDict) {
      if (*count % 2 != 0) return Fault("sets an item without a value");
      for (size_t i = stack_.size() - *count; i < stack_.size(); i += 2) {
        const Kind key = stack_[i]->kind;
        if (key > Kind::kTuple) return Fault("has a key that is neither text, number nor tuple");
      }
    }
    return MoveTo(&target->items, count);
  }

  absl::Status Store(uint64_t index) {
    if (stack_.size() <= Floor()) return Fault("stores a value where there is none");
    if (memo_.size() == kMaxMemo) return Fault("stores too many values", Reason::kUnsupported);
    memo_[index] = stack_.back();
    return absl::OkStatus();
  }

  absl::Status PushGlobalOfLines() {
    std::string name;
    for (int part = 0; part < 2; ++part) {
      const size_t end = bytes_.substr(at_, kMaxName).find('\n');
      if (end == absl::string_view::npos) return Fault("has a name without an end");
      absl::StrAppend(&name, part == 0 ? "" : " ", bytes_.substr(at_, end));
      at_ += end + 1;
    }
    return PushGlobal(name);
  }

  absl::Status PushGlobalOfStack() {
    ASSIGN_OR_RETURN(const PickleValue* const name, Pop());
    ASSIGN_OR_RETURN(const PickleValue* const module, Pop());
    if (name->kind != Kind::kText || module->kind != Kind::kText) {
      return Fault("has a name that is no text");
    }
    return PushGlobal(absl::StrCat(module->text, " ", name->text));
  }

  absl::Status PushGlobal(absl::string_view name) {
    const auto* const found =
        std::find_if(std::begin(kGlobals), std::end(kGlobals),
                     [&](const PickleGlobal& global) { return global.name == name; });
    if (found == std::end(kGlobals)) {
      return Fault(absl::StrCat("refers to ", Quoted(name),
                                ", which is not allowed: only tensors and plain values are read, "
                                "and nothing is executed"),
                   Reason::kUnsupported);
    }
    ASSIGN_OR_RETURN(PickleValue* const value, New(Kind::kGlobal));
    value->global = found;
    return absl::OkStatus();
  }

  // Replaces the last value by one made of it.
  absl::Status Wrap(Kind kind, const PickleGlobal* global) {
    ASSIGN_OR_RETURN(const PickleValue* const inner, Pop());
    ASSIGN_OR_RETURN(PickleValue* const value, New(kind));
    value->global = global;
    value->items = {inner};
    return absl::OkStatus();
  }

  absl::Status Reduce() {
    ASSIGN_OR_RETURN(PickleValue* const arguments, Pop());
    ASSIGN_OR_RETURN(const PickleValue* const function, Pop());
    if (function->kind != Kind::kGlobal || arguments->kind != Kind::kTuple) {
      return Fault("calls something that is no function, or without arguments");
    }
    const auto refused = [&] {
      return Fault(
          absl::StrCat("calls ", Quoted(function->global->name), " in a way that is not allowed"),
          Reason::kUnsupported);
    };
    switch (function->global->role) {
      case Role::kOrderedDict:
        return arguments->items.empty() ? Push(Kind::kDict) : refused();
      case Role::kDevice:
        return Push(Kind::kOther);
      case Role::kTensorV2:
      case Role::kTensorV3:
      case Role::kParameter:
      case Role::kParameterWithState:
        RETURN_IF_ERROR(PushOld(arguments));
        return Wrap(Kind::kCall, function->global);
      case Role::kSize: {
        if (arguments->items.size() != 1 || arguments->items[0]->kind != Kind::kTuple) {
          return refused();
        }
        ASSIGN_OR_RETURN(PickleValue* const size, New(Kind::kTuple));
        size->items = arguments->items[0]->items;
        return absl::OkStatus();
      }
      default:
        return refused();
    }
  }

  // Attributes of a dictionary: a state_dict has its versions there. They are left out.
  absl::Status Build() {
    ASSIGN_OR_RETURN(const PickleValue* const state, Pop());
    if (stack_.size() <= Floor()) return Fault("takes a value where there is none");
    if (stack_.back()->kind != Kind::kDict || state->kind != Kind::kDict) {
      return Fault("sets attributes of something else than a dictionary", Reason::kUnsupported);
    }
    return absl::OkStatus();
  }

  const absl::string_view bytes_;
  size_t at_ = 0;
  size_t begin_ = 0;  // of the opcode at hand
  bool stopped_ = false;
  Pickle pickle_;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;
  // Ordered, as a pickle chooses the keys and may choose them to collide.
  std::map<uint64_t, PickleValue*> memo_;
};

}  // namespace

absl::StatusOr<Pickle> ParsePickle(absl::string_view bytes) { return Machine(bytes).Run(); }

}  // namespace orthomerge
