# Option RELAY_CUDA: whether the CUDA backend's programs are built. (Its headers are always there.) ON by default where there is a
# CUDA compiler that works, and relay is not part of another project.
include(CheckLanguage)

# One compiler for the host's part of a program, where it is one that nvcc takes for sure; beside Clang it is nvcc's own choice.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT CMAKE_CXX_COMPILER_ARG1 AND NOT CMAKE_CUDA_HOST_COMPILER AND NOT DEFINED ENV{CUDAHOSTCXX})
  set(ENV{CUDAHOSTCXX} ${CMAKE_CXX_COMPILER})
endif()

# Sets CMAKE_CUDA_COMPILER. NVIDIA's installer puts nvcc where no PATH looks.
macro(relay_check_cuda)
  if(NOT CMAKE_CUDA_COMPILER)
    unset(CMAKE_CUDA_COMPILER CACHE)  # there may be one since it was looked for
    find_program(RELAY_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
    mark_as_advanced(RELAY_NVCC)
    if(NOT DEFINED ENV{CUDACXX} AND RELAY_NVCC)
      set(ENV{CUDACXX} ${RELAY_NVCC})
    endif()
    check_language(CUDA)
  endif()
endmacro()

if(NOT DEFINED RELAY_CUDA)
  set(relay_cuda_default OFF)
  if(PROJECT_IS_TOP_LEVEL)
    relay_check_cuda()
    if(CMAKE_CUDA_COMPILER)
      set(relay_cuda_default ON)
    else()
      message(STATUS "relay: no CUDA compiler that works, the CUDA backend is not built (RELAY_CUDA)")
    endif()
  endif()
endif()
option(RELAY_CUDA "Build what runs on a GPU (needs NVIDIA's CUDA toolkit)" ${relay_cuda_default})

if(RELAY_CUDA)
  relay_check_cuda()
  if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR "RELAY_CUDA is ON, but there is no CUDA compiler that works: install NVIDIA's CUDA toolkit and name its nvcc in "
      "the environment variable CUDACXX, or configure with -DRELAY_CUDA=OFF.")
  endif()
  get_property(relay_languages GLOBAL PROPERTY ENABLED_LANGUAGES)
  if(NOT PROJECT_IS_TOP_LEVEL AND NOT "CUDA" IN_LIST relay_languages)
    message(FATAL_ERROR "RELAY_CUDA is ON, but the project that relay is part of has no CUDA: give it the language, project(... LANGUAGES "
      "CXX CUDA), or set RELAY_CUDA to OFF.")
  endif()
  # For our own programs: A100, H100 with all that it has (sm_90a, which CMake before 3.25 may not know), and PTX for what comes after them.
  if(PROJECT_IS_TOP_LEVEL AND NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
    set(hopper 90a-real)
    if(CMAKE_VERSION VERSION_LESS 3.25)
      set(hopper 90-real)
    endif()
    set(CMAKE_CUDA_ARCHITECTURES 80-real ${hopper} 90-virtual CACHE STRING "What nvcc compiles for")
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit QUIET)
  if((NOT TARGET CUDA::cudart OR NOT TARGET CUDA::cublasLt) AND relay_cuda_default)  # nobody asked
    message(STATUS "relay: beside ${CMAKE_CUDA_COMPILER} there is no CUDA runtime or no cuBLASLt, the CUDA backend is not built (RELAY_CUDA)")
    set_property(CACHE RELAY_CUDA PROPERTY VALUE OFF)
  elseif(NOT TARGET CUDA::cudart OR NOT TARGET CUDA::cublasLt)
    message(FATAL_ERROR "RELAY_CUDA is ON, but beside ${CMAKE_CUDA_COMPILER} there is no CUDA runtime or no cuBLASLt: install the whole CUDA "
      "toolkit, or configure with -DRELAY_CUDA=OFF.")
  else()
    include(${CMAKE_CURRENT_LIST_DIR}/cuda.cmake)
  endif()
endif()
