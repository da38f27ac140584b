# How relay's own programs (tests, examples, benchmarks) are compiled: warnings, sanitizers, instruction set.
#
# All of it sits on `relay_development`, which only those programs link, privately. It is not installed, and no consumer
# of relay::relay ever sees it. Warnings become errors with CMake's own CMAKE_COMPILE_WARNING_AS_ERROR (preset `dev`).
include(CheckCXXSourceRuns)

add_library(relay_development INTERFACE)

# --- Warnings: what g++ 12 and clang 14 agree on. ---
set(relay_warnings
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wold-style-cast -Wcast-qual -Wextra-semi
  -Wnon-virtual-dtor -Woverloaded-virtual
  # clang counts -Wsign-conversion into -Wconversion, g++ does not. Eigen's indices are signed, the standard library's
  # are not: casts at every subscript would hide more than they show.
  -Wno-sign-conversion)
set(relay_gnu_warnings
  # g++ 12 sees overlapping copies in any `"literal" + std::string` (its bug 105651).
  -Wno-restrict
  # g++ derives these from what its optimiser happened to do, and at -O2 and -O3 they are wrong often enough inside
  # Eigen and std::string: shown, never an error; what is uninitialised not even shown, since with AVX-512 it is about
  # g++ 12's own intrinsics, a hundred times a file (clang still says what is).
  -Wno-uninitialized -Wno-maybe-uninitialized -Wno-error=array-bounds -Wno-error=stringop-overflow -Wno-error=stringop-overread)
target_compile_options(relay_development INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${relay_warnings}>"
  "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:${relay_gnu_warnings}>")
# What nvcc hands to the host's compiler is its own rewriting of the source: the stricter warnings are about that. (CMake makes nvcc's
# warnings errors, where they are to be, but not those of the host's compiler.)
set(relay_cuda_warnings -Wall -Wextra)
if(CMAKE_COMPILE_WARNING_AS_ERROR)
  list(APPEND relay_cuda_warnings -Werror)
endif()
if(NOT CMAKE_CUDA_HOST_COMPILER MATCHES "clang")
  list(APPEND relay_cuda_warnings ${relay_gnu_warnings})
endif()
list(JOIN relay_cuda_warnings "," relay_cuda_warnings)
target_compile_options(relay_development INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${relay_cuda_warnings}>)

# --- Sanitizers: what follows -fsanitize=, e.g. "address,undefined" (presets `asan` and `tsan`). ---
set(RELAY_SANITIZE "" CACHE STRING "Sanitizers for relay's own programs, as -fsanitize= takes them; empty: none")
if(RELAY_SANITIZE)
  target_compile_options(relay_development INTERFACE
    -fsanitize=${RELAY_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(relay_development INTERFACE -fsanitize=${RELAY_SANITIZE})
endif()

# --- Instruction set. ---
# Kernels are compiled for every level and the program chooses (backend/cpu/levels.hpp). Our own programs are compiled for
# AVX-512 (x86-64-v4), else for AVX2 (x86-64-v3), wherever this compiler and this CPU can do it: that leaves the levels below out
# and saves minutes of building. Not `native`: its binaries would differ between machines. With RELAY_ARCH= (empty) they
# are what a user gets without flags.
if(NOT DEFINED CACHE{RELAY_ARCH})
  set(relay_arch "")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT CMAKE_CROSSCOMPILING)
    foreach(level IN ITEMS v4:avx512f,avx512bw,avx512cd,avx512dq,avx512vl v3:avx2,fma,bmi2)
      string(REGEX MATCH "^(v[34]):(.*)$" unused "${level}")
      set(version ${CMAKE_MATCH_1})
      string(REGEX REPLACE "([a-z0-9]+),?" "__builtin_cpu_supports(\"\\1\") && " supported "${CMAKE_MATCH_2}")
      set(CMAKE_REQUIRED_FLAGS "-march=x86-64-${version}")
      set(CMAKE_REQUIRED_QUIET TRUE)
      check_cxx_source_runs("int main() { return ${supported} true ? 0 : 1; }" RELAY_HAS_X86_64_${version})
      unset(CMAKE_REQUIRED_FLAGS)
      unset(CMAKE_REQUIRED_QUIET)
      if(RELAY_HAS_X86_64_${version})
        set(relay_arch "x86-64-${version}")
        break()
      endif()
    endforeach()
  endif()
  set(RELAY_ARCH "${relay_arch}" CACHE STRING "-march for relay's own programs; empty: the compiler's default")
endif()
if(RELAY_ARCH)
  target_compile_options(relay_development INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-march=${RELAY_ARCH}> $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-march=${RELAY_ARCH}>)
endif()

# relay_add_program(<target> <source>...): one program of ours.
function(relay_add_program target)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE relay::relay relay_development)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
endfunction()

# relay_add_cuda_program(<target> <source>... [HOST <source>...]): one of ours for a GPU; nvcc compiles its sources but for those of the host.
function(relay_add_cuda_program target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "HOST")
  relay_add_program(${target} ${arg_UNPARSED_ARGUMENTS} ${arg_HOST})
  relay_cuda_sources(${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${target} PRIVATE relay::cuda)
endfunction()
