# What Sphinx is told, beside the title and the folders, which cgen-site gives it
extensions = ["myst_nb", "sphinx_copybutton"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_block"]
nb_code_prompt_show, nb_code_prompt_hide = "Code", "Hide the code"
myst_dmath_double_inline = True   # $$ may stand within a paragraph
myst_heading_anchors = 4
myst_heading_slug_func = "curriculum_gen.site.build.anchor"
mathjax_path = "mathjax.js"
html_theme, html_static_path, html_css_files, html_js_files = "furo", ["_static"], ["site.css"], ["site.js"]
html_theme_options, html_favicon = {"footer_icons": []}, "_static/icon.svg"
pygments_dark_style = "github-dark"
html_copy_source = html_show_sphinx = html_show_copyright = False
copybutton_selector = "div.cell_input pre, section > div.highlight-sh pre, section > div.highlight-yaml pre"
