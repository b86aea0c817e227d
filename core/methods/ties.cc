// TIES (arXiv 2306.01708): trim each task vector to its largest entries over the whole model, elect
// a sign per element, merge the entries that have it; theta = theta_0 + lambda * that.
//
// Trim: of d entries the k-th smallest magnitude is the threshold, k = d - int(d * density), and
// every entry at least as large stays. It is found exactly by counting: magnitudes order like
// their bit patterns, so each round counts 16 further bits. Elect: the sign of the sum of the
// trimmed entries; where that is 0, the sign of the majority over all elements.
#include <bit>
#include <cmath>
#include <limits>

#include "core/math/kernels.h"
#include "core/methods/elements.h"
#include "core/methods/make.h"

namespace orthomerge {
namespace {

constexpr int kDigitBits = 16;
constexpr int64_t kDigits = int64_t{1} << kDigitBits;

uint64_t Key(float magnitude, int bits) {
  return bits == 32 ? std::bit_cast<uint32_t>(magnitude)
                    : std::bit_cast<uint64_t>(static_cast<double>(magnitude));
}
uint64_t Key(double magnitude, int) { return std::bit_cast<uint64_t>(magnitude); }

// What the program and the method share. Solved values per model and round: upper and lower 32
// bits of the key found so far (its trailing digits 0), remaining rank; after the last counting
// round: the threshold itself.
struct Trim {
  int first_round = 0;
  int key_bits = 32;  // 64 if any tensor is float64
  bool keep_all = false;

  int counting_rounds() const { return keep_all ? 0 : key_bits / kDigitBits; }
  int sign_round() const { return counting_rounds(); }
  int shift(int round) const { return key_bits - kDigitBits * (round + 1); }

  uint64_t Prefix(const Solved& solved, int round, size_t model) const {
    if (round == 0) return 0;
    const std::vector<double>& values = solved.rounds[first_round + round - 1].model;
    return (static_cast<uint64_t>(values[3 * model]) << 32) |
           static_cast<uint64_t>(values[3 * model + 1]);
  }
  double Rank(const Solved& solved, int round, size_t model) const {
    return solved.rounds[first_round + round - 1].model[3 * model + 2];
  }
  double Threshold(const Solved& solved, size_t model) const {
    if (keep_all) return 0;
    const uint64_t key = Prefix(solved, counting_rounds(), model);
    return key_bits == 32 ? std::bit_cast<float>(static_cast<uint32_t>(key))
                          : std::bit_cast<double>(key);
  }
};

class TiesProgram : public TensorProgram {
 public:
  TiesProgram(const Trim& trim, ElectedMerge merge, double lambda)
      : trim_(trim), merge_(merge), lambda_(lambda) {}

  bool takes_part(int) const override { return true; }

  void Accumulate(int round, const Region& region, const Solved& solved,
                  Accumulator& partial) const override {
    if (region.f64) {
      AccumulateAs<double>(round, region, solved, partial);
    } else {
      AccumulateAs<float>(round, region, solved, partial);
    }
  }

  absl::Status Emit(const Region& region, const Solved& solved,
                    absl::Span<void* const> sinks) const override {
    if (region.f64) {
      EmitAs<double>(region, solved, static_cast<double*>(sinks[0]));
    } else {
      EmitAs<float>(region, solved, static_cast<float*>(sinks[0]));
    }
    return absl::OkStatus();
  }

  std::string description() const override { return "trimmed, sign elected, merged"; }

 private:
  template <class T>
  void AccumulateAs(int round, const Region& region, const Solved& solved,
                    Accumulator& partial) const {
    if (round == trim_.sign_round()) return CountSigns<T>(region, solved, partial);
    const int shift = trim_.shift(round);
    for (size_t k = 0; k < region.rows.size(); ++k) {
      const T* row = region.row_as<T>(k);
      const uint64_t prefix = trim_.Prefix(solved, round, k);
      uint64_t* counters = &partial.counters[k * kDigits];
      for (int64_t i = 0; i < region.elements; ++i) {
        if (region.counts != nullptr && region.counts[i] == 0) continue;
        const uint64_t key = Key(std::abs(row[i]), trim_.key_bits);
        // The digits above this round's must be those found before.
        if (round > 0 && ((key ^ prefix) >> (shift + kDigitBits)) != 0) continue;
        ++counters[(key >> shift) & (kDigits - 1)];
      }
    }
  }

  // Thresholds as the working dtype; rounded up, so that the same entries are below them.
  template <class T>
  std::vector<T> Thresholds(size_t models, const Solved& solved) const {
    std::vector<T> thresholds;
    for (size_t k = 0; k < models; ++k) {
      const double exact = trim_.Threshold(solved, k);
      auto threshold = static_cast<T>(exact);
      if (threshold < exact) {
        threshold = std::nextafter(threshold, std::numeric_limits<T>::infinity());
      }
      thresholds.push_back(threshold);
    }
    return thresholds;
  }

  // An election over a region; `rows` and `thresholds` must outlive it.
  template <class T>
  static Election<T> ElectionOver(const Region& region, const std::vector<T>& thresholds,
                                  std::vector<const T*>* rows) {
    for (size_t k = 0; k < region.rows.size(); ++k) rows->push_back(region.row_as<T>(k));
    Election<T> election;
    election.base = region.base_as<T>();
    election.rows = rows->data();
    election.thresholds = thresholds.data();
    election.k = static_cast<int>(rows->size());
    return election;
  }

  template <class T>
  void CountSigns(const Region& region, const Solved& solved, Accumulator& partial) const {
    const std::vector<T> thresholds = Thresholds<T>(region.rows.size(), solved);
    std::vector<const T*> rows;
    const Election<T> election = ElectionOver(region, thresholds, &rows);
    if constexpr (sizeof(T) == sizeof(float)) {
      BestKernels().count_signs32(election, region.elements, partial.counters.data());
    } else {
      BestKernels().count_signs64(election, region.elements, partial.counters.data());
    }
  }

  template <class T>
  void EmitAs(const Region& region, const Solved& solved, T* out) const {
    const std::vector<T> thresholds = Thresholds<T>(region.rows.size(), solved);
    std::vector<const T*> rows;
    Election<T> election = ElectionOver(region, thresholds, &rows);
    election.majority =
        static_cast<T>(solved.rounds[trim_.first_round + trim_.sign_round()].model[0]);
    election.merge = merge_;
    election.lambda = lambda_;
    if constexpr (sizeof(T) == sizeof(float)) {
      BestKernels().elect32(election, out, region.elements);
    } else {
      BestKernels().elect64(election, out, region.elements);
    }
    if (region.counts == nullptr) return;
    for (int64_t i = 0; i < region.elements; ++i) {
      if (region.counts[i] != 0) continue;
      out[i] = region.base_as<T>()[i];  // carried: whatever is not finite stays visible
      for (const T* row : rows) out[i] += row[i];
    }
  }

  const Trim trim_;
  const ElectedMerge merge_;
  const double lambda_;
};

class Ties : public Method {
 public:
  explicit Ties(const MethodSpec& spec)
      : parameters_(spec.parameters),
        models_(spec.weights.size()),
        density_(NumberOf(spec.parameters, "density")),
        lambda_(NumberOf(spec.parameters, "lambda")) {
    if (density_ > 1) density_ /= 100;
    trim_.keep_all = density_ >= 1;
    const std::string merge = TextOf(parameters_, "merge");
    merge_ = merge == "sum"   ? ElectedMerge::kSum
             : merge == "max" ? ElectedMerge::kMax
                              : ElectedMerge::kMean;
  }

  bool wants_task_vectors() const override { return true; }

  absl::Status Prepare(absl::Span<const OutputTensor> tensors) override {
    for (const OutputTensor& tensor : tensors) {
      if (tensor.f64) trim_.key_bits = 64;
    }
    return absl::OkStatus();
  }

  std::vector<Round> rounds() const override {
    std::vector<Round> rounds;
    for (int r = 0; r < trim_.counting_rounds(); ++r) {
      rounds.push_back(
          {"magnitudes", Round::Fold::kExact, static_cast<int64_t>(models_) * kDigits});
    }
    rounds.push_back({"signs", Round::Fold::kExact, 2});
    return rounds;
  }

  absl::StatusOr<std::unique_ptr<TensorProgram>> Compile(
      const OutputTensor& tensor) const override {
    if (IsExcluded(parameters_, tensor.name)) return nullptr;
    Trim trim = trim_;
    trim.first_round = first_round();
    return std::make_unique<TiesProgram>(trim, merge_, lambda_);
  }

  absl::Status Solve(int round, const Folded& folded, Solved* solved) const override {
    Trim trim = trim_;
    trim.first_round = first_round();
    std::vector<double>& values = solved->rounds[first_round() + round].model;
    if (round == trim.sign_round()) {
      const uint64_t positive = folded.counters[0], negative = folded.counters[1];
      values = {positive > negative ? 1.0 : (positive < negative ? -1.0 : 0.0)};
      return absl::OkStatus();
    }
    for (size_t k = 0; k < models_; ++k) {
      const uint64_t* counters = &folded.counters[k * kDigits];
      double rank = round == 0 ? FirstRank(counters) : trim.Rank(*solved, round, k);
      int64_t digit = 0;
      while (digit + 1 < kDigits && rank > static_cast<double>(counters[digit])) {
        rank -= static_cast<double>(counters[digit]);
        ++digit;
      }
      const uint64_t key =
          trim.Prefix(*solved, round, k) | (static_cast<uint64_t>(digit) << trim.shift(round));
      values.push_back(static_cast<double>(key >> 32));
      values.push_back(static_cast<double>(key & 0xffffffffu));
      values.push_back(rank);
    }
    return absl::OkStatus();
  }

  void Report(const Solved& solved, MethodReport* report) const override {
    Trim trim = trim_;
    trim.first_round = first_round();
    auto thresholds = nlohmann::ordered_json::array();
    for (size_t k = 0; k < models_; ++k) thresholds.push_back(trim.Threshold(solved, k));
    report->values["thresholds"] = std::move(thresholds);
  }

 private:
  // k = d - int(d * density), counting from 1, over the d elements that count.
  double FirstRank(const uint64_t* counters) const {
    uint64_t d = 0;
    for (int64_t i = 0; i < kDigits; ++i) d += counters[i];
    return static_cast<double>(d) - std::floor(static_cast<double>(d) * density_);
  }

  const ParameterMap parameters_;
  const size_t models_;
  double density_;
  const double lambda_;
  ElectedMerge merge_ = ElectedMerge::kMean;
  Trim trim_;
};

}  // namespace

std::unique_ptr<Method> MakeTies(const MethodSpec& spec) { return std::make_unique<Ties>(spec); }

}  // namespace orthomerge
