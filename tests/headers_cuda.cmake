# cmake -D COMPILER=<c++> -D INCLUDE=<include dir> -D TESTS=<tests dir> -D HEADERS=<list> -P headers_cuda.cmake
#
# Each of HEADERS compiles alone, with the CUDA runtime's stand-in (backend/cuda_on_host.hpp).
cmake_minimum_required(VERSION 3.24)
file(WRITE alone.cpp "")
foreach(header IN LISTS HEADERS)
  execute_process(
    COMMAND ${COMPILER} -std=c++20 -fsyntax-only -Wall -Wextra -Werror "-DRELAY_CUDA_RUNTIME=\"backend/cuda_on_host.hpp\"" -I${INCLUDE} -I${TESTS}
      -include ${header} alone.cpp
    COMMAND_ERROR_IS_FATAL ANY)
endforeach()
list(LENGTH HEADERS count)
message(STATUS "${count} headers compile alone")
