# The CPU kernels as an object library: no torch, one object per op and SIMD level. Levels are flags
# of single files, never of a library: everything else runs on any x86-64.
set(CLFAST_CPU_OPS rows knn knn_small class_means nearest_class_mean hebbian_update mbpa_update
  hebb_logits mixture_log_probs recall_gradients divergence soft_cross_entropy image_prior
  project_gradients gem_project quadratic_penalty path_integral masked_weight block_gradients
  masked_step
  herding softmax_descent cosine_logits bias_correct perceptron)
set(CLFAST_CPU_DIR ${CMAKE_CURRENT_LIST_DIR})

function(clfast_cpu_kernels target)
  set(sources ${CLFAST_CPU_DIR}/simd.cpp ${CLFAST_CPU_DIR}/knn_sweep.cpp ${CLFAST_CPU_DIR}/knn_ranking.cpp
    ${CLFAST_CPU_DIR}/packed_mask.cpp ${CLFAST_CPU_DIR}/margin_ranking.cpp)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
    list(APPEND sources ${CLFAST_CPU_DIR}/amx.cpp)
  endif()
  foreach(op IN LISTS CLFAST_CPU_OPS)
    list(APPEND sources ${CLFAST_CPU_DIR}/${op}.cpp ${CLFAST_CPU_DIR}/${op}_base.cpp)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
      set(avx2 ${CLFAST_CPU_DIR}/${op}_avx2.cpp)
      set(avx512 ${CLFAST_CPU_DIR}/${op}_avx512.cpp)
      list(APPEND sources ${avx2} ${avx512})
      set_source_files_properties(${avx2} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma")
      set_source_files_properties(${avx512} PROPERTIES COMPILE_OPTIONS
        "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mfma;-mprefer-vector-width=512")
    endif()
  endforeach()
  add_library(${target} OBJECT ${sources})
  # GCC leaves loops with masks scalar unless traps and errno are out of the way. Vector types cross
  # no unit's border, so the ABI warning about them (psabi) has no subject.
  target_compile_options(${target} PRIVATE -O3 -fopenmp-simd -fno-trapping-math -fno-math-errno
    -Wall -Wextra -Wno-psabi)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    target_compile_options(${target} PRIVATE -march=x86-64)
  endif()
endfunction()
