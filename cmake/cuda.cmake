# relay::cuda, what a program of relay::Cuda<float> links besides relay::relay: the CUDA runtime, cuBLASLt, and C++20 for nvcc.
#
# Nothing is compiled for it, so it is made where it is used: here, and, from the installed package, in the consumer's project
# (relayConfig.cmake). The language CUDA is enabled and CUDAToolkit is found before; CMAKE_CUDA_ARCHITECTURES is the consumer's (for an H100 best
# 90a-real: products that are for Hopper's tensor cores alone are not in what is compiled for 90).

# relay_cuda_sources(<file>...): compiles these sources of the calling directory with nvcc, whatever their names end in.
function(relay_cuda_sources)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CUDA)
endfunction()

if(NOT TARGET relay::cuda)
  add_library(relay::cuda INTERFACE IMPORTED GLOBAL)
  target_link_libraries(relay::cuda INTERFACE relay::relay CUDA::cudart CUDA::cublasLt)
  # Host functions that are constexpr, the standard library's among them, may be called in kernels.
  target_compile_options(relay::cuda INTERFACE $<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:--expt-relaxed-constexpr>)
  if("cuda_std_20" IN_LIST CMAKE_CUDA_COMPILE_FEATURES)
    target_compile_features(relay::cuda INTERFACE cuda_std_20)
  else()  # CMake 3.25 and older do not know it of nvcc
    target_compile_options(relay::cuda INTERFACE $<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-std=c++20>)
  endif()
endif()
