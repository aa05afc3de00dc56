// GEM's quadratic programme (Lopez-Paz and Ranzato 2017, Eq. 11), as its authors' code has it: for
// T earlier tasks, with G the inner products of their gradients and b those with the current one,
//
//   min_v  v'Pv / 2 + b'v   subject to  v_k >= margin,   P = G + 0.001 I.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace clfast {

CLFAST_HD constexpr double gem_ridge() { return 1e-3; }

struct GemProgram {
  const double* gram;      // [T, T], read where column <= row
  const double* products;  // [T], b
  int64_t tasks;           // T
  double margin;           // >= 0
};

// Doubles that gem_multipliers() uses, and as many int64.
inline int64_t gem_scratch(int64_t tasks) { return tasks * tasks + 3 * tasks; }

CLFAST_HD double gem_entry(const GemProgram& p, int64_t i, int64_t k) {
  const int64_t row = i > k ? i : k, column = i > k ? k : i;
  return p.gram[row * p.tasks + column] + (i == k ? gem_ridge() : 0.0);
}

// The variables that are above their bound, in the order in which they came, and the Cholesky
// factor of P at these.
struct GemPassive {
  double *factor, *solution;  // [T, T], [T]
  int64_t* order;             // [T]
  int64_t count;
};

// Factors rows from `first` on.
CLFAST_HD void gem_factor(const GemProgram& p, const GemPassive& s, int64_t first) {
  for (int64_t row = first; row < s.count; ++row) {
    double* own = s.factor + row * p.tasks;
    double rest = 0;
    for (int64_t column = 0; column <= row; ++column) {
      const double* other = s.factor + column * p.tasks;
      rest = gem_entry(p, s.order[row], s.order[column]);
      for (int64_t k = 0; k < column; ++k) rest -= own[k] * other[k];
      if (column < row) own[column] = rest / other[column];
    }
    // At least the ridge, but for rounding.
    own[row] = std::sqrt(rest > DBL_MIN ? rest : DBL_MIN);
  }
}

// solution = the minimum over the passive variables, all others at 0.
CLFAST_HD void gem_solve(const GemProgram& p, const GemPassive& s, const double* slopes) {
  for (int64_t row = 0; row < s.count; ++row) {
    double rest = -slopes[s.order[row]];
    for (int64_t k = 0; k < row; ++k) rest -= s.factor[row * p.tasks + k] * s.solution[k];
    s.solution[row] = rest / s.factor[row * p.tasks + row];
  }
  for (int64_t row = s.count - 1; row >= 0; --row) {
    double rest = s.solution[row];
    for (int64_t k = row + 1; k < s.count; ++k) rest -= s.factor[k * p.tasks + row] * s.solution[k];
    s.solution[row] = rest / s.factor[row * p.tasks + row];
  }
}

// out [T] = v, by Lawson and Hanson's active sets in u = v - margin >= 0. Every round adds the
// variable whose slope is the most negative and lowers the objective, which is strictly convex, so
// that no set of passive variables comes twice; a slope within its rounding error counts as 0, and
// the number of rounds has a limit that exact arithmetic does not need in practice.
CLFAST_HD void gem_multipliers(const GemProgram& p, double* scratch, int64_t* order, double* out) {
  const int64_t tasks = p.tasks;
  double *slopes = scratch, *scales = slopes + tasks;  // at u = 0; sqrt(P_kk)
  GemPassive s{scales + 2 * tasks, scales + tasks, order, 0};
  double* u = out;
  double length = 0;  // sum_k sqrt(P_kk) v_k, a bound for |M'v|
  for (int64_t i = 0; i < tasks; ++i) {
    u[i] = 0;
    scales[i] = std::sqrt(gem_entry(p, i, i));
    length += scales[i] * p.margin;
    slopes[i] = p.products[i];
    for (int64_t k = 0; k < tasks; ++k) slopes[i] += gem_entry(p, i, k) * p.margin;
  }
  const double rounding = 8 * static_cast<double>(tasks) * DBL_EPSILON;
  for (int64_t round = 0; round < 16 * (tasks + 1); ++round) {
    double reach = length;
    for (int64_t k = 0; k < s.count; ++k) reach += scales[s.order[k]] * u[s.order[k]];
    int64_t steepest = -1;
    double least = 0;
    for (int64_t i = 0; i < tasks; ++i) {
      if (u[i] > 0) continue;
      double slope = slopes[i];
      for (int64_t k = 0; k < s.count; ++k) {
        slope += gem_entry(p, i, s.order[k]) * u[s.order[k]];
      }
      const double error = rounding * (std::fabs(p.products[i]) + scales[i] * reach);
      if (slope < -error && slope < least) {
        least = slope;
        steepest = i;
      }
    }
    if (steepest < 0) break;
    s.order[s.count++] = steepest;
    gem_factor(p, s, s.count - 1);
    while (s.count > 0) {
      gem_solve(p, s, slopes);
      // As far towards the solution as all stay >= 0; who stops it leaves.
      double step = 1;
      int64_t first = s.count;
      for (int64_t k = 0; k < s.count; ++k) {
        if (s.solution[k] > 0) continue;
        const double before = u[s.order[k]];
        const double most = before > 0 ? before / (before - s.solution[k]) : 0.0;
        if (first == s.count || most < step) {
          step = most;
          first = k;
        }
      }
      for (int64_t k = 0; k < s.count; ++k) {
        double& own = u[s.order[k]];
        own = first == s.count ? s.solution[k] : own + step * (s.solution[k] - own);
      }
      if (first == s.count) break;
      u[s.order[first]] = 0;
      int64_t left = 0, changed = s.count;
      for (int64_t k = 0; k < s.count; ++k) {
        const int64_t i = s.order[k];
        if (u[i] > 0) {
          s.order[left++] = i;
        } else {
          u[i] = 0;
          if (k < changed) changed = k;
        }
      }
      s.count = left;
      gem_factor(p, s, changed);
    }
  }
  for (int64_t i = 0; i < tasks; ++i) out[i] = u[i] + p.margin;
}

}  // namespace clfast
