#include "recall_gradients.h"

namespace clfast::cpu {

#define CLFAST_PICK_RECALL_GRADIENTS(T)                                                          \
  void recall_predictions(const RecallProblem<T>& problem, int64_t begin, int64_t end,           \
                          const RecallState<T>& state, T* d_old, T* d_new) {                     \
    CLFAST_CALL_AT_LEVEL(recall_predictions(problem, begin, end, state, d_old, d_new));          \
  }                                                                                              \
  void recall_diversity(const RecallProblem<T>& problem, int64_t begin, int64_t end,             \
                        const T* powers, const RecallState<T>& state, T* terms) {                \
    CLFAST_CALL_AT_LEVEL(recall_diversity(problem, begin, end, powers, state, terms));           \
  }                                                                                              \
  void recall_gradients(const RecallProblem<T>& problem, int64_t begin, int64_t end, T* scratch, \
                        const RecallState<T>& state, T* d_old, T* d_new, T* values) {            \
    CLFAST_CALL_AT_LEVEL(                                                                        \
        recall_gradients(problem, begin, end, scratch, state, d_old, d_new, values));            \
  }
CLFAST_PICK_RECALL_GRADIENTS(float)
CLFAST_PICK_RECALL_GRADIENTS(double)

}  // namespace clfast::cpu
