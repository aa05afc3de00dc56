// probe CHECK ORDER SIZE: runs a planted kernel and writes what came out as float64 to standard
// output. ORDER is forward, reverse or random:SEED. Exits with 3 if the emulator threw, with the
// text on standard error; the sanitizers end the program in their own ways.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "planted/faults.cuh"
#include "planted/intrinsics.cuh"
#include "planted/row_statistics.cuh"

namespace {

using namespace clfast::planted;
using Numbers = std::vector<double>;

// Five rows on standard input, `columns` each.
template <int kThreads, Fault kFault = Fault::kNone>
Numbers statistics_of_rows(int columns) {
  constexpr int kRows = 5;
  std::vector<float> x(static_cast<size_t>(kRows * columns)), out(kRows * 4);
  if (std::fread(x.data(), sizeof(float), x.size(), stdin) != x.size()) std::exit(2);
  row_statistics<kThreads, kFault>(x.data(), out.data(), kRows, columns, nullptr);
  return {out.begin(), out.end()};
}

Numbers shuffles(int threads) {
  Numbers all;
  std::vector<float> floats(static_cast<size_t>(threads));
  std::vector<int64_t> longs(floats.size());
  for (int shuffle = 0; shuffle < kShuffles; ++shuffle) {
    for (int width : {32, 8, 1}) {
      for (int argument : {0, 1, 3, 16, 31}) {
        CLFAST_LAUNCH(shuffle_kernel<float>, 1, threads, 0, nullptr, floats.data(), shuffle,
                      argument, width);
        CLFAST_LAUNCH(shuffle_kernel<int64_t>, 1, threads, 0, nullptr, longs.data(), shuffle,
                      argument, width);
        for (size_t i = 0; i < floats.size(); ++i) {
          all.push_back(floats[i]);
          all.push_back(static_cast<double>(longs[i]));
        }
      }
    }
  }
  return all;
}

Numbers votes(int threads) {
  Numbers all;
  for (unsigned divisor : {1u, 3u, 40u}) {
    Numbers out(static_cast<size_t>(threads) * 4);
    CLFAST_LAUNCH(vote_kernel<double>, 1, threads, 0, nullptr, out.data(), divisor);
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

Numbers half_warps(int threads) {
  Numbers out(static_cast<size_t>(threads));
  CLFAST_LAUNCH(half_warp_kernel<double>, 1, threads, 0, nullptr, out.data());
  return out;
}

Numbers ballot_after_return(int threads) {
  Numbers out(static_cast<size_t>(threads));
  CLFAST_LAUNCH(ballot_after_return_kernel<double>, 1, threads, 0, nullptr, out.data(), 5u);
  return out;
}

Numbers atomics(int threads) {
  constexpr int kBlocks = 3;
  Counters c{};
  c.sum_int = INT32_MAX;  // wraps around
  c.claimed_int = -1;
  c.bits_and = ~0u;
  c.smallest_ulonglong = ~0ull;
  Numbers out(static_cast<size_t>(kBlocks * threads));
  CLFAST_LAUNCH(atomics_kernel<double>, kBlocks, threads, 0, nullptr, &c, out.data());
  for (double x :
       {double(c.sum_int), double(c.difference_int), double(c.largest_int), double(c.smallest_int),
        double(c.exchanged_int), double(c.claimed_int), double(c.bits_or), double(c.sum_unsigned),
        double(c.largest_unsigned), double(c.bits_and), double(c.bits_xor), double(c.sum_ulonglong),
        double(c.smallest_ulonglong), double(c.smallest_longlong), double(c.sum_float),
        double(c.exchanged_float), c.sum_double}) {
    out.push_back(x);
  }
  return out;
}

Numbers arithmetic(int size) {
  Numbers out(static_cast<size_t>(size));
  CLFAST_LAUNCH(arithmetic_kernel<double>, 1, 1, 0, nullptr, out.data());
  return out;
}

Numbers coordinates(int) {
  Numbers out(3 * 2 * 2 * 4 * 3 * 2);
  CLFAST_LAUNCH(coordinates_kernel<double>, dim3(3, 2, 2), dim3(4, 3, 2), 0, nullptr, out.data());
  return out;
}

Numbers launch_errors(int) {
  float out[1024];
  Numbers errors;
  const auto record = [&](dim3 grid, dim3 block, size_t shared_bytes) {
    out[0] = 0.0f;
    CLFAST_LAUNCH(neighbour_kernel<false>, grid, block, shared_bytes, nullptr, out);
    errors.push_back(cudaPeekAtLastError());
    errors.push_back(cudaGetLastError());
    errors.push_back(cudaGetLastError());
  };
  record(1, 32, 0);
  record(1, 1025, 0);
  record(1, dim3(33, 32), 0);
  record(1, dim3(1, 1, 65), 0);
  record(0, 32, 0);
  record(dim3(1, 65536), 32, 0);
  record(1, 32, 48 * 1024 + 1);
  return errors;
}

// 48 KiB for the launch are fine until the kernel's own CLFAST_SHARED comes on top.
Numbers dynamic_and_fixed_shared(int) {
  std::vector<float> out(32);
  CLFAST_LAUNCH(neighbour_kernel<false>, 1, 32, 48 * 1024, nullptr, out.data());
  return {out.begin(), out.end()};
}

Numbers shared_opt_in(int) {
  std::vector<float> out(128);
  const auto launch = [&](size_t shared_bytes) {
    const cudaError_t error =
        clfast::allow_dynamic_shared(read_uninitialised_shared_kernel, shared_bytes);
    if (error != cudaSuccess) return error;
    CLFAST_LAUNCH(read_uninitialised_shared_kernel, 1, 64, shared_bytes, nullptr, out.data());
    return cudaGetLastError();
  };
  Numbers errors;
  errors.push_back(launch(100 * 1024));
  errors.push_back(launch(228 * 1024));
  simt::device.max_shared_bytes_with_opt_in = 99 * 1024;
  errors.push_back(launch(100 * 1024));
  return errors;
}

template <class... Parameters>
auto fault(void (*kernel)(Parameters...)) {
  return [kernel](int threads) {
    std::vector<float> out(static_cast<size_t>(threads));
    CLFAST_LAUNCH(kernel, 2, threads, 0, nullptr, out.data());
    return Numbers(out.begin(), out.end());
  };
}

// After an error the next launch starts from nothing.
Numbers recovery(int columns) {
  for (int i = 0; i < 3; ++i) {
    try {
      fault(shuffle_in_branch_kernel)(128);
      return {};
    } catch (const simt::Error&) {
    }
  }
  return statistics_of_rows<128>(columns);
}

Numbers uninitialised_shared(int) {
  std::vector<float> out(3 * 64 * 2);
  CLFAST_LAUNCH(read_uninitialised_shared_kernel, 3, 64, 64 * sizeof(float), nullptr, out.data());
  return {out.begin(), out.end()};
}

Numbers read_past_global(int n) {
  std::vector<float> x(static_cast<size_t>(n)), out(1);
  CLFAST_LAUNCH(read_past_global_kernel, 1, n + 1, 0, nullptr, x.data(), out.data(), n);
  return {out.begin(), out.end()};
}

Numbers write_past_dynamic_shared(int n) {
  std::vector<float> out(1);
  CLFAST_LAUNCH(write_past_dynamic_shared_kernel, 1, n, static_cast<size_t>(n) * sizeof(float),
                nullptr, out.data(), n);
  return {out.begin(), out.end()};
}

Numbers overflow_index(int) {
  int64_t out[4];
  CLFAST_LAUNCH(overflow_index_kernel, 4, 1, 0, nullptr, out, 1 << 30);
  return {static_cast<double>(out[3])};
}

Numbers load_misaligned_vector(int) {
  alignas(16) float x[8] = {};
  float out = 0.0f;
  CLFAST_LAUNCH(load_misaligned_vector_kernel, 1, 1, 0, nullptr, x, &out);
  return {out};
}

const std::map<std::string, std::function<Numbers(int)>> kChecks = {
    {"row_statistics_32", statistics_of_rows<32>},
    {"row_statistics_128", statistics_of_rows<128>},
    {"row_statistics_1024", statistics_of_rows<1024>},
    {"row_statistics_missing_barrier", statistics_of_rows<128, Fault::kMissingBarrier>},
    {"recovery", recovery},
    {"shuffles", shuffles},
    {"votes", votes},
    {"half_warps", half_warps},
    {"ballot_after_return", ballot_after_return},
    {"atomics", atomics},
    {"arithmetic", arithmetic},
    {"coordinates", coordinates},
    {"launch_errors", launch_errors},
    {"dynamic_and_fixed_shared", dynamic_and_fixed_shared},
    {"shared_opt_in", shared_opt_in},
    {"uninitialised_shared", uninitialised_shared},
    {"read_past_global", read_past_global},
    {"write_past_dynamic_shared", write_past_dynamic_shared},
    {"write_past_shared", fault(write_past_shared_kernel<64>)},
    {"overflow_index", overflow_index},
    {"load_misaligned_vector", load_misaligned_vector},
    {"barrier_in_half_of_block", fault(barrier_in_half_of_block_kernel)},
    {"two_barriers", fault(two_barriers_kernel)},
    {"return_before_barrier", fault(return_before_barrier_kernel)},
    {"shuffle_in_branch", fault(shuffle_in_branch_kernel)},
    {"mask_without_caller", fault(mask_without_caller_kernel)},
    {"two_operations", fault(two_operations_kernel)},
    {"odd_width", fault(odd_width_kernel)},
    {"fitting_shared", fault(two_shared_arrays_kernel<6288>)},
    {"big_shared", fault(two_shared_arrays_kernel<6289>)},
    {"neighbour", fault(neighbour_kernel<false>)},
    {"neighbour_missing_barrier", fault(neighbour_kernel<true>)},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 || kChecks.count(argv[1]) == 0) return 2;
  const std::string order = argv[2];
  if (order == "reverse") simt::set_order(simt::Order::kReverse);
  if (order.rfind("random:", 0) == 0) {
    simt::set_order(simt::Order::kRandom, std::strtoull(order.c_str() + 7, nullptr, 10));
  }
  try {
    const Numbers numbers = kChecks.at(argv[1])(std::atoi(argv[3]));
    std::fwrite(numbers.data(), sizeof(double), numbers.size(), stdout);
  } catch (const simt::Error& error) {
    std::fprintf(stderr, "simt::Error: %s\n", error.what());
    return 3;
  }
  return 0;
}
