"""Repositories made of a distribution's -dev packages."""

_INCLUDE_DIRS = ["/usr/include", "/usr/local/include"]

def _library_dirs(ctx):
    multiarch = ctx.execute(["gcc", "-print-multiarch"]).stdout.strip()
    dirs = ["/usr/lib", "/usr/lib64", "/usr/local/lib"]
    return (["/usr/lib/" + multiarch] if multiarch else []) + dirs

def _first(ctx, dirs, name, package):
    for dir in dirs:
        path = ctx.path(dir + "/" + name)
        if path.exists:
            return path
    fail("%s is not installed: no %s in %s; run tools/setup" % (package, name, ", ".join(dirs)))

# Headers alone: what we use of Highway is in them, and Debian's library is a shared one, which a
# wheel's user may lack.
_HIGHWAY_BUILD = """
cc_library(
    name = "hwy",
    hdrs = glob(["include/hwy/**/*.h"]),
    includes = ["include"],
    visibility = ["//visibility:public"],
)
"""

def _highway_configure_impl(ctx):
    ctx.symlink(_first(ctx, _INCLUDE_DIRS, "hwy", "libhwy-dev"), "include/hwy")
    ctx.file("BUILD", _HIGHWAY_BUILD)

highway_configure = repository_rule(implementation = _highway_configure_impl, local = True)

_GTEST_BUILD = """
cc_library(
    name = "gtest_main",
    srcs = ["libgtest_main.a", "libgtest.a"],
    hdrs = glob(["include/gtest/**/*.h"]),
    includes = ["include"],
    linkopts = ["-pthread"],
    visibility = ["//visibility:public"],
)
"""

def _gtest_configure_impl(ctx):
    ctx.symlink(_first(ctx, _INCLUDE_DIRS, "gtest", "libgtest-dev"), "include/gtest")
    for library in ["libgtest.a", "libgtest_main.a"]:
        ctx.symlink(_first(ctx, _library_dirs(ctx), library, "libgtest-dev"), library)
    ctx.file("BUILD", _GTEST_BUILD)

gtest_configure = repository_rule(implementation = _gtest_configure_impl, local = True)
