#include "../exemplars.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <tuple>
#include <vector>

#include "../../kernels/cpu/cache_lines.h"
#include "../../kernels/cpu/herding_picks.h"

namespace clfast::ops {
namespace {

// ---- herding ----

constexpr int64_t kWorthAThread = 1 << 16;  // products

// Rows of every class, classes ascending: those of class c are rows[first[c] .. first[c + 1]).
struct ClassRows {
  std::vector<int64_t> first, rows;

  int64_t classes() const { return static_cast<int64_t>(first.size()) - 1; }
  int64_t size(int64_t c) const { return first[c + 1] - first[c]; }
};

ClassRows rows_of_classes(const int64_t* labels, int64_t samples) {
  ClassRows sorted{{0}, std::vector<int64_t>(samples)};
  if (samples == 0) return sorted;
  const auto [least, most] = std::minmax_element(labels, labels + samples);
  // Unsigned: the difference of two labels may be any.
  const uint64_t range = static_cast<uint64_t>(*most) - static_cast<uint64_t>(*least);
  if (range <= 4 * static_cast<uint64_t>(samples) + 1024) {
    std::vector<int64_t> next(range + 1);
    for (int64_t i = 0; i < samples; ++i) ++next[labels[i] - *least];
    for (int64_t& place : next) {
      if (place > 0) sorted.first.push_back(sorted.first.back() + place);
      place = sorted.first.back() - place;
    }
    for (int64_t i = 0; i < samples; ++i) sorted.rows[next[labels[i] - *least]++] = i;
    return sorted;
  }
  std::iota(sorted.rows.begin(), sorted.rows.end(), 0);
  std::stable_sort(sorted.rows.begin(), sorted.rows.end(),
                   [=](int64_t a, int64_t b) { return labels[a] < labels[b]; });
  for (int64_t i = 1; i < samples; ++i) {
    if (labels[sorted.rows[i]] != labels[sorted.rows[i - 1]]) sorted.first.push_back(i);
  }
  sorted.first.push_back(samples);
  return sorted;
}

// For classes of up to `most` members.
class HerdingBuffers {
 public:
  HerdingBuffers(int64_t most, int64_t dim)
      : dim_(dim),
        chunks_(cpu::herding_chunks(most)),
        members_(cpu::padded_members(most)),
        doubles_((dim + 1) * chunks_ + 2 * members_ + 3 * dim),
        floats_(3 * members_ + cpu::target_pairs(dim)),
        nearest_(members_),
        packed_(cpu::new_cache_lines<float>(members_ * cpu::column_pairs(dim))) {}

  cpu::HerdingScratch view() {
    double *sq_norms = doubles_.data(), *exact = sq_norms + members_, *sums = exact + members_;
    double *best = sums + dim_ * chunks_, *origin = best + chunks_;
    float *lengths = floats_.data(), *squares = lengths + members_, *scores = squares + members_;
    return {{packed_.get(), lengths, squares},
            sq_norms,
            scores,
            nearest_.data(),
            exact,
            sums,
            best,
            origin,
            origin + dim_,
            origin + 2 * dim_,
            scores + members_};
  }

 private:
  int64_t dim_, chunks_, members_;
  std::vector<double> doubles_;
  std::vector<float> floats_;
  std::vector<int64_t> nearest_;
  cpu::CacheLines<float> packed_;
};

// Names a feature that cannot be scored.
template <class T>
[[noreturn]] void refuse_features(const T* features, int64_t samples, int64_t dim) {
  for (int64_t i = 0; i < samples; ++i) {
    double sq_norm = 0;
    for (int64_t j = 0; j < dim; ++j) {
      const double x = static_cast<double>(features[i * dim + j]);
      sq_norm += x * x;
    }
    CLFAST_CHECK(herding_takes(sq_norm), "herding: features[", i,
                 "] holds NaN, Inf, or numbers whose squares overflow");
  }
  CLFAST_CHECK(false, "herding: features holds numbers whose squares overflow");
}

std::tuple<Tensor, Tensor> herding(const Tensor& features, const Tensor& labels, int64_t m) {
  const HerdingInputs in = check_herding(features, labels, m);
  const ClassRows rows = rows_of_classes(in.labels.const_data_ptr<int64_t>(), in.samples);
  Tensor picks = new_tensor(in.features, {in.samples}, ScalarType::Long);
  Tensor sizes = new_tensor(in.features, {in.samples}, ScalarType::Long);
  int64_t* out = picks.mutable_data_ptr<int64_t>();
  std::fill_n(sizes.mutable_data_ptr<int64_t>(), in.samples, 0);
  int64_t largest = 0;
  for (int64_t c = 0; c < rows.classes(); ++c) {
    sizes.mutable_data_ptr<int64_t>()[rows.first[c]] = rows.size(c);
    largest = std::max(largest, rows.size(c));
  }
  std::atomic<bool> finite{true};
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* data = in.features.const_data_ptr<T>();
    const auto herd = [&](int64_t c, HerdingBuffers& buffers) {
      const int64_t first = rows.first[c], count = rows.size(c);
      // Of a class that a thread has for itself, all chunks come in one range.
      const auto for_each = [&](int64_t chunks, const auto& work) {
        torch::stable::parallel_for(0, chunks,
                                    1 + kWorthAThread / (cpu::kHerdingRows * (in.dim + 1)), work);
      };
      const cpu::HerdingClass<T> of{data, rows.rows.data() + first, count, in.dim};
      // A class has as many places for picks as members.
      int64_t* places = out + first;
      if (!cpu::herding_picks(of, std::min(m, count), buffers.view(), for_each, places)) {
        finite = false;
      }
      for (int64_t k = m; k < count; ++k) places[k] = -1;
    };
    if (rows.classes() < static_cast<int64_t>(torch::stable::get_num_threads())) {
      HerdingBuffers buffers(largest, in.dim);
      for (int64_t c = 0; c < rows.classes(); ++c) herd(c, buffers);
    } else {
      // Threads share out the rows, so that classes of different sizes even out.
      torch::stable::parallel_for(
          0, in.samples, 1 + kWorthAThread / (std::min(m, largest) * (in.dim + 1)),
          [&](int64_t begin, int64_t end) {
            HerdingBuffers buffers(largest, in.dim);
            const auto at = std::lower_bound(rows.first.begin(), rows.first.end(), begin);
            for (int64_t c = at - rows.first.begin(); c < rows.classes() && rows.first[c] < end;
                 ++c) {
              herd(c, buffers);
            }
          });
    }
    if (!finite) refuse_features(data, in.samples, in.dim);
  });
  return {picks, sizes};
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) { m.impl("herding", TORCH_BOX(&clfast::ops::herding)); }
