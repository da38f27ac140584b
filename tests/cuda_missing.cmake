# cmake -D SOURCE=<relay> -D GENERATOR=<generator> -D COMPILER=<c++> -D EIGEN=<Eigen3_DIR> -P cuda_missing.cmake
#
# Where there is no CUDA compiler, RELAY_CUDA=ON is an error that says what to do, and without it relay is built for the CPU.
cmake_minimum_required(VERSION 3.24)
set(ENV{CUDACXX} ${CMAKE_CURRENT_BINARY_DIR}/no_nvcc_here)

function(configure directory)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -S ${SOURCE} -B ${directory} -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER} -DEigen3_DIR=${EIGEN}
      -DRELAY_BUILD_TESTS=OFF -DRELAY_BUILD_EXAMPLES=OFF -DRELAY_BUILD_BENCH=OFF ${ARGN}
    RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
  string(REGEX REPLACE "[ \n]+" " " words "${said}")  # an error is wrapped
  set(result "${result}" PARENT_SCOPE)
  set(words "${words}" PARENT_SCOPE)
endfunction()

configure(asked -DRELAY_CUDA=ON)
if(result EQUAL 0 OR NOT words MATCHES "RELAY_CUDA is ON, but there is no CUDA compiler that works: install NVIDIA's CUDA toolkit")
  message(FATAL_ERROR "RELAY_CUDA=ON without a CUDA compiler ends with ${result} and says: ${words}")
endif()

configure(not_asked)
if(NOT result EQUAL 0 OR NOT words MATCHES "no CUDA compiler that works, the CUDA backend is not built")
  message(FATAL_ERROR "without a CUDA compiler, relay is configured with ${result} and says: ${words}")
endif()
message(STATUS "refused, as expected")
