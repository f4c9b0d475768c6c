"""The demo's invented sites: who publishes what, and the page around it (navigation, cookie banner, sidebars, footer).

Every host ends in `.example`, which is reserved for such use. Templates are plain HTML with `$slots`.
"""

from html import escape
from string import Template
from typing import NamedTuple

from .prose import Article

# Layouts take: $lang $meta $title $name $host $menu $body $date $cookies $aside $footer.
WEBLOG = Template("""<!DOCTYPE html>
<html lang="$lang"><head>$meta<title>$title | $name</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:17px/1.6 Georgia,serif;margin:0 auto;max-width:44rem}
nav a{margin-right:1em}.cookie-banner{position:fixed;bottom:0}</style>
<script>window.visits=(window.visits||0)+1;</script></head>
<body class="single"><div class="cookie-banner" role="dialog"><p>$cookies</p><button>OK</button></div>
<header class="site-header"><a class="logo" href="/">$name</a><nav class="main-menu">$menu</nav></header>
<main><article class="post"><h1 class="entry-title">$title</h1><p class="byline"><time datetime="$date">$date</time></p>
<div class="entry-content">
$body
</div></article></main>
<aside class="sidebar widget-area"><h3>$name</h3>$aside</aside>
<footer class="site-footer"><p>$footer</p></footer></body></html>
""")

NEWSPAPER = Template("""<!DOCTYPE html>
<html lang="$lang"><head>$meta<title>$title - $name</title><link rel="stylesheet" href="/style.css">
<meta property="og:site_name" content="$name">
<meta property="article:published_time" content="${date}T06:00:00Z"></head>
<body><div id="consent" class="gdpr-consent-modal"><h2>$name</h2><p>$cookies</p><a href="#">OK</a></div>
<div id="topbar" class="navbar"><ul class="menu">$menu</ul></div>
<div id="wrapper"><div id="content"><article itemscope itemtype="https://schema.org/NewsArticle">
<h1 itemprop="headline">$title</h1><div class="article-meta"><span class="date">$date</span></div>
<div class="social-share"><a href="/share?a">A</a> <a href="/share?b">B</a></div>
<div class="article-body" itemprop="articleBody">
$body
</div></article></div>
<div id="related" class="related-posts">$aside</div></div>
<div id="footer" class="footer"><p>$footer</p></div>
<script>document.getElementById("consent").dataset.shown = "1";</script></body></html>
""")

FORUM = Template("""<!DOCTYPE html>
<html lang="$lang"><head>$meta<title>$title :: $name</title></head>
<body id="viewtopic"><div class="headerbar"><a href="/index.php">$name</a></div>
<div class="breadcrumbs">$menu</div>
<div id="page-body" role="main"><h1 class="topic-title">$title</h1>
<div class="postbody"><div class="content">
$body
</div></div></div>
<div class="sidebar" id="sidebar">$aside</div>
<div class="cookie-notice">$cookies</div>
<div id="page-footer" class="footer">$footer</div></body></html>
""")

MANUAL = Template("""<!doctype html>
<html lang="$lang"><head>$meta<title>$title &mdash; $name</title>
<style>.toc{float:left;width:14rem}.document{margin-left:16rem}</style></head>
<body><div class="toc sidebar"><p><b>$name</b></p><ul class="nav">$menu</ul>$aside</div>
<div class="document"><div class="body" role="main"><section id="main"><h1>$title</h1>
$body
</section></div></div>
<div class="cookie-bar">$cookies</div>
<footer class="footer"><hr><p>$footer ($date)</p></footer></body></html>
""")

# As pages were made before style sheets: everything in one table, tags in capitals, some never closed.
OLD = Template("""<HTML lang="$lang"><HEAD>$meta<TITLE>$title</TITLE></HEAD>
<BODY BGCOLOR="#FFFFF0"><CENTER><H2>$name</H2></CENTER>
<TABLE WIDTH="100%" BORDER=0 class="menu"><TR><TD class="nav">$menu</TD></TR></TABLE>
<DIV class="content">
<H1>$title</H1>
$body
</DIV>
<DIV class="cookie-notice"><SMALL>$cookies</SMALL></DIV>
<DIV class="footer"><HR><SMALL>$footer<BR>$aside</SMALL></DIV></BODY></HTML>
""")


class Site(NamedTuple):
    """One invented publisher."""

    host: str
    language: str
    name: str
    layout: Template
    topics: tuple[str, ...]
    menu: tuple[str, ...]
    cookies: str
    aside: str
    footer: str


COOKIES = {
    "en": "We use cookies to improve your visit. By continuing you accept our cookie policy.",
    "zh": "本网站使用 Cookie 来改善您的浏览体验，继续浏览即表示您同意。",
    "de": "Diese Seite verwendet Cookies. Wenn Sie weiterlesen, sind Sie damit einverstanden.",
    "fr": "Ce site utilise des cookies. En poursuivant, vous acceptez leur utilisation.",
    "es": "Este sitio utiliza cookies. Si continúa navegando, acepta su uso.",
    "ja": "このサイトではクッキーを使用しています。続けると同意したものとみなされます。",
    "ru": "Этот сайт использует файлы cookie. Продолжая, вы соглашаетесь с этим.",
    "ar": "يستخدم هذا الموقع ملفات تعريف الارتباط. بالمتابعة فإنك توافق على ذلك.",
    "th": "เว็บไซต์นี้ใช้คุกกี้ การใช้งานต่อถือว่าคุณยอมรับ",
}

MENUS = {
    "en": ("Home", "Archive", "About us", "Contact", "Log in"),
    "zh": ("首页", "归档", "关于我们", "联系方式", "登录"),
    "de": ("Startseite", "Archiv", "Über uns", "Kontakt", "Impressum"),
    "fr": ("Accueil", "Archives", "À propos", "Contact", "Connexion"),
    "es": ("Inicio", "Archivo", "Quiénes somos", "Contacto", "Entrar"),
    "ja": ("ホーム", "記事一覧", "このサイトについて", "お問い合わせ", "ログイン"),
    "ru": ("Главная", "Архив", "О нас", "Контакты", "Войти"),
    "ar": ("الرئيسية", "الأرشيف", "من نحن", "اتصل بنا", "دخول"),
    "th": ("หน้าแรก", "คลังบทความ", "เกี่ยวกับเรา", "ติดต่อ", "เข้าสู่ระบบ"),
}


def _site(host: str, language: str, name: str, layout: Template, *topics: str, aside: str, footer: str) -> Site:
    return Site(host, language, name, layout, topics, MENUS[language], COOKIES[language], aside, footer)


SITES = (
    _site("garden.example", "en", "The Patient Garden", WEBLOG, "soil", "vegetables", "glossary",
          aside="Subscribe to our newsletter", footer="© The Patient Garden. All rights reserved."),
    _site("allotment.example", "en", "Allotment Letters", MANUAL, "compost", "seasons", "water and pests",
          aside="Next meeting: Monday", footer="Printed with thanks to all members."),
    _site("seeds.example", "en", "The Seed Tin", OLD, "seeds",
          aside="You are visitor 004127", footer="Best viewed with any browser. Webmaster: mail us."),
    _site("forum.example", "en", "Green Thumbs Forum", FORUM, "questions",
          aside="Users online: 7 members, 31 guests", footer="Powered by nothing in particular. Terms of use."),
    _site("harbour-news.example", "en", "Harbour News", NEWSPAPER, "harbour news",
          aside="Most read: Ferry late again", footer="Harbour News, The Quay 1. Privacy policy. Terms of use."),
    _site("tides.example", "en", "Tides and Boats", OLD, "tides and boats",
          aside="Webring: previous | next", footer="Last updated in spring."),
    _site("cookbook.example", "en", "Cookbook", WEBLOG, "bread", "recipes",
          aside="Popular: soups, cakes, jams", footer="© Cookbook. Print this page."),
    _site("docs.example", "en", "Household Manual", MANUAL, "how-to",
          aside="Version 3.2", footer="Found a mistake? Edit this page."),
    _site("spokes.example", "en", "Spokes", NEWSPAPER, "bicycles",
          aside="Shop: tyres, tubes, bells", footer="Spokes is run by volunteers."),
    _site("nightsky.example", "en", "Night Sky and Weather", WEBLOG, "stars", "weather",
          aside="Tonight: clear spells", footer="© Night Sky. All rights reserved."),
    _site("oldmill.example", "en", "Old Mill History Group", OLD, "village history",
          aside="Guest book", footer="Sign our guest book!"),
    _site("茶馆.example".encode("idna").decode(), "zh", "临河茶馆", WEBLOG, "茶",
          aside="热门文章", footer="版权所有 临河茶馆"),
    _site("caiyuan.example", "zh", "小菜园", NEWSPAPER, "土壤", "种菜", "堆肥与种子",
          aside="相关阅读：阳台种菜", footer="小菜园 版权所有 转载请注明出处"),
    _site("luntan.example", "zh", "园艺论坛", FORUM, "园艺问答",
          aside="在线用户：会员三人，游客十二人", footer="论坛声明：发言仅代表个人观点"),
    _site("jieqi.example", "zh", "节气与自然", MANUAL, "节气", "天文与自然",
          aside="目录", footer="内容仅供学习参考"),
    _site("chufang.example", "zh", "家常厨房", WEBLOG, "家常饭",
          aside="本周推荐", footer="家常厨房 联系邮箱见首页"),
    _site("shuixiang.example", "zh", "水乡往事", OLD, "水乡往事",
          aside="友情链接", footer="建议使用任意浏览器访问"),
    _site("werkstatt.example", "de", "Offene Werkstatt", MANUAL, "Werkstatt",
          aside="Termine", footer="Impressum und Datenschutz"),
    _site("jardin.example", "fr", "Le Jardin d'à côté", WEBLOG, "Jardin",
          aside="Articles récents", footer="Mentions légales"),
    _site("huerto.example", "es", "El Huerto Común", NEWSPAPER, "Huerto",
          aside="Lo más leído", footer="Aviso legal"),
    _site("niwa.example", "ja", "小さな庭", WEBLOG, "庭",
          aside="最近の記事", footer="無断転載を禁じます"),
    _site("dacha.example", "ru", "Наша дача", FORUM, "Дача",
          aside="Сейчас на сайте: двое", footer="Все права защищены"),
    _site("bustan.example", "ar", "بستان القرية", NEWSPAPER, "بستان",
          aside="الأكثر قراءة", footer="جميع الحقوق محفوظة"),
    _site("suan.example", "th", "สวนหลังบ้าน", WEBLOG, "สวน",
          aside="บทความล่าสุด", footer="สงวนลิขสิทธิ์"),
)  # fmt: skip

META_UTF8 = '<meta charset="utf-8">'


def article_body(article: Article, headings: bool = True) -> str:
    """The article's paragraphs as HTML, with or without a heading above each but the first."""
    parts = [f"<p>{escape(article.opening)}</p>"]
    for i, (heading, text) in enumerate(article.sections):
        if headings and i:
            parts.append(f"<h2>{escape(heading)}</h2>")
        parts.append(f"<p>{escape(text)}</p>")
    if article.closing:
        parts.append(f"<p>{escape(article.closing)}</p>")
    return "\n".join(parts)


def frame(site: Site, title: str, body: str, date: str, meta: str = META_UTF8) -> str:
    """A whole page of a site around the given body."""
    item = "<li>{}</li>" if site.layout in (NEWSPAPER, MANUAL) else "{} "
    links = (item.format(f'<a href="/{i}">{escape(word)}</a>') for i, word in enumerate(site.menu))
    return site.layout.substitute(
        lang=site.language,
        meta=meta,
        title=escape(title),
        name=escape(site.name),
        menu="".join(links),
        body=body,
        date=date,
        cookies=escape(site.cookies),
        aside=escape(site.aside),
        footer=escape(site.footer),
    )


def render(site: Site, article: Article, date: str, meta: str = META_UTF8) -> str:
    """An article as a page of its site; the old layout and the forum know no headings within a page."""
    return frame(site, article.title, article_body(article, site.layout not in (OLD, FORUM)), date, meta)
