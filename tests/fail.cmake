# cmake -D COMPILER=<c++> -D RELAY=<include dir> -D EIGEN=<include dir> -D SOURCE=<file> -P fail.cmake
#
# SOURCE must not compile, and the compiler's message, as a user sees it, must contain the words of each of its lines
# "// expect: <words>". The compiler echoes no source lines here: words that stand only in the source do not count.
cmake_minimum_required(VERSION 3.24)

# A notice keeps its lines; an error is wrapped, and no test could look for its words.
function(refuse)
  message(NOTICE "${ARGV}")
  message(FATAL_ERROR "failed")
endfunction()

file(STRINGS ${SOURCE} expectations REGEX "^// expect: .+")
if(NOT expectations)
  refuse("${SOURCE} has no line \"// expect: <words>\"")
endif()

set(ENV{LC_ALL} C)
execute_process(COMMAND ${COMPILER} --version OUTPUT_VARIABLE version)
if(version MATCHES "clang")
  set(no_echo -fno-caret-diagnostics)
else()
  set(no_echo -fno-diagnostics-show-caret)
endif()
execute_process(
  COMMAND ${COMPILER} -std=c++20 -fsyntax-only ${no_echo} -fdiagnostics-color=never -I${RELAY} -isystem ${EIGEN} ${SOURCE}
  RESULT_VARIABLE result ERROR_VARIABLE said)

if(result STREQUAL "0")
  refuse("${SOURCE} must not compile, but it does")
endif()
foreach(expectation IN LISTS expectations)
  string(REGEX REPLACE "^// expect: " "" words "${expectation}")
  string(FIND "${said}" "${words}" at)
  if(at EQUAL -1)
    refuse("${SOURCE} is refused, but the message does not say \"${words}\":\n${said}")
  endif()
endforeach()
message(STATUS "refused, as expected:\n${said}")
