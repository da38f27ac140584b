# cmake -D COMPILER=<c++> -D ROOT=<relay> -P headers_cuda.cmake
#
# Each header of the CUDA backend compiles alone, with the stand-in for the CUDA runtime (tests/backend/cuda_on_host.hpp).
cmake_minimum_required(VERSION 3.24)
file(WRITE alone.cpp "")
file(GLOB_RECURSE headers ${ROOT}/include/relay/backend/cuda.hpp ${ROOT}/include/relay/backend/cuda/*.hpp)
foreach(header IN LISTS headers)
  execute_process(
    COMMAND ${COMPILER} -std=c++20 -fsyntax-only -Wall -Wextra -Werror "-DRELAY_CUDA_RUNTIME=\"backend/cuda_on_host.hpp\"" -I${ROOT}/include -I${ROOT}/tests
      -include ${header} alone.cpp
    COMMAND_ERROR_IS_FATAL ANY)
endforeach()
list(LENGTH headers count)
if(count EQUAL 0)
  message(FATAL_ERROR "there is no header to compile")
endif()
message(STATUS "${count} headers compile alone")
