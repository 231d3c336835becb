"""Stand-ins for repositories that Bazel's built-in WORKSPACE would download.

Any C++ rule asks for @rules_cc, toolchain registration for @rules_java and any test for
@remote_coverage_tools. A repository defined earlier under the same name wins, and what the
built-in definitions need of these three fits in a few lines.
"""

_RULES_CC_DEFS = """
def cc_binary(**kwargs):
    native.cc_binary(**kwargs)

def cc_import(**kwargs):
    native.cc_import(**kwargs)

def cc_library(**kwargs):
    native.cc_library(**kwargs)

def cc_test(**kwargs):
    native.cc_test(**kwargs)

def cc_toolchain(**kwargs):
    native.cc_toolchain(**kwargs)

def cc_toolchain_suite(**kwargs):
    native.cc_toolchain_suite(**kwargs)
"""

_RULES_JAVA_DEFS = """
def java_binary(**kwargs):
    native.java_binary(**kwargs)

def java_import(**kwargs):
    native.java_import(**kwargs)

def java_library(**kwargs):
    native.java_library(**kwargs)

def java_runtime(**kwargs):
    native.java_runtime(**kwargs)

def java_toolchain(**kwargs):
    native.java_toolchain(**kwargs)
"""

def _rules_cc_impl(ctx):
    ctx.file("BUILD", "")
    ctx.file("cc/BUILD", "")
    ctx.file("cc/defs.bzl", _RULES_CC_DEFS)

_rules_cc = repository_rule(implementation = _rules_cc_impl)

def _rules_java_impl(ctx):
    ctx.file("BUILD", "")
    ctx.file("java/BUILD", "")
    ctx.file("java/defs.bzl", _RULES_JAVA_DEFS)

_rules_java = repository_rule(implementation = _rules_java_impl)

_COVERAGE_BUILD = """
filegroup(name = "coverage_report_generator", visibility = ["//visibility:public"])
"""

def _coverage_tools_impl(ctx):
    ctx.file("BUILD", _COVERAGE_BUILD)

_coverage_tools = repository_rule(implementation = _coverage_tools_impl)

def offline_stand_ins():
    """Defines the stand-ins on Debian's Bazel, which is built without a version number.

    An official Bazel has the real ones in reach and is left alone.
    """
    if native.bazel_version:
        return
    _rules_cc(name = "rules_cc")
    _rules_java(name = "rules_java")
    _coverage_tools(name = "remote_coverage_tools")
